"""The run folder of a vision model: how it starts, how it is resumed, and how other commands open it."""

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import eru
from eru.training import Ranks, RunFolder
from vision.data.sample import Task
from vision.datasets import Dataset
from vision.network import Network
from vision.predictor import Predictor, resized
from vision.preprocessing import Preprocessing
from vision.registry import create_model
from vision.training.recipes import Recipe, read_recipe, with_tuples

_KIND = "vision-model"


@dataclass(frozen=True)
class VisionRun:
    """A run folder with what its config describes.

    Attributes:
        folder: The files.
        recipe: Every number of the training.
        dataset: The classes of the model.
        preprocessing: From a picture to the model's input.
    """

    folder: RunFolder
    recipe: Recipe
    dataset: Dataset
    preprocessing: Preprocessing

    @property
    def task(self) -> Task:
        """What the model does."""
        return self.recipe.task

    def build_model(self, device: str | torch.device = "cpu") -> Network:
        """The model with new weights."""
        described = dict(self.folder.config["model"])
        model = create_model(described.pop("name"), device=device, **described)
        model.dataset, model.preprocessing = self.dataset, self.preprocessing
        return model

    def load_model(self, device: str | torch.device = "cpu") -> Network:
        """The trained model, in evaluation mode.

        Raises:
            ValueError: There are no weights yet, or their file is broken.
        """
        weights = self.folder.load_weights(device)
        model = self.build_model(device)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"{self.folder.weights_path} does not fit its config.json: {reason}") from error
        return model.eval()

    def predictor(
        self, *, device: str | torch.device = "cpu", size: tuple[int, int] | None = None, **options: Any
    ) -> Predictor:
        """What predicts with the trained model.

        Args:
            device: Where to compute.
            size: Height and width of the model's input, if they are to be others than those of the training.
            options: Those of :class:`vision.Predictor`.
        """
        return Predictor(self.load_model(device), resized(self.preprocessing, size), self.dataset, **options)


def open_run(path: str | Path) -> VisionRun:
    """Open a run folder that a training of a vision model made.

    Raises:
        ValueError: No run is there, its config.json is broken, or it is a run of something else.
    """
    folder = RunFolder.open(path)
    if folder.config.get("kind") != _KIND:
        raise ValueError(f"{path} holds no vision model: kind={folder.config.get('kind')!r} in its config.json")
    try:
        _check_shape(folder.config)
        recipe, dataset = read_recipe(folder.config["recipe"]), _read(Dataset, folder.config["dataset"])
        return VisionRun(folder, recipe, dataset, _read(Preprocessing, folder.config["preprocessing"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder.config_path} is broken: {error}") from error


def _check_shape(config: dict[str, Any]) -> None:
    """Raise ValueError where what other code takes from a config is not there, or of another type."""
    kinds = {"model": {"name": str, "num_classes": int}, "data": {"layout": str, "root": str, "splits": list}}
    for name, wanted in kinds.items():
        found = config.get(name)
        if not isinstance(found, dict):
            raise ValueError(f"{name!r} is {found!r}: must be an object")
        for key, kind in wanted.items():
            if not isinstance(found.get(key), kind):
                raise ValueError(f"{key!r} of {name!r} is {found.get(key)!r}: must be of the type {kind.__name__}")
    if not all(isinstance(split, str) for split in config["data"]["splits"]):
        raise ValueError(f"'splits' of 'data' is {config['data']['splits']!r}: must be names")
    if not isinstance(config["data"].get("start", {}), dict):
        raise ValueError(f"'start' of 'data' is {config['data']['start']!r}: must be an object")


def run_config(
    recipe: Recipe, model: Network, dataset: Dataset, data: dict[str, Any], precision: str
) -> dict[str, Any]:
    """What config.json says that a run is, besides the versions that made it."""
    crop = 0.875 if recipe.task == "classify" else None
    return {
        "kind": _KIND,
        "recipe": asdict(recipe),
        "model": {"name": model.name, "num_classes": model.num_classes, **model.architecture()},
        "dataset": asdict(dataset),
        "preprocessing": asdict(Preprocessing(recipe.sizes[-1], crop=crop)),
        "data": data,
        "precision": precision,
    }


def create_run(path: str | Path, config: dict[str, Any], ranks: Ranks) -> VisionRun:
    """Make the folder of a new run, in the first process.

    Raises:
        ValueError: The folder holds a run or a file that the run would overwrite, or a file is in its place.
    """
    versions = {"eru": eru.__version__, "torch": torch.__version__, "python": platform.python_version()}
    if ranks.is_main:
        RunFolder.create(path, {**config, "versions": versions})
    ranks.barrier()
    return open_run(path)


def resume_run(path: str | Path, config: dict[str, Any], ranks: Ranks) -> VisionRun | None:
    """Open a run to go on with, which must be the very run that is asked for.

    Returns:
        The run; or None where there is none, or where it was killed before its first checkpoint. What such a run left
        is removed.

    Raises:
        ValueError: The run is another one, has lost its checkpoint, or needs the weights to start from once more.
    """
    is_there = (Path(path) / "config.json").exists()
    ranks.barrier()  # No process may make the folder before every other one has looked for it.
    if not is_there:
        return None
    run = open_run(path)
    saved = run.folder.config
    # A checkpoint has the weights that the run started from, so they need not be named again.
    lacks_start = "start" in saved["data"] and "start" not in config["data"]
    given = {**config["data"], "start": saved["data"]["start"]} if lacks_start else config["data"]
    run.folder.check_same_config({**saved, **config, "data": given}, ignore=("data.root",))
    if not run.folder.has_state and run.folder.load_state() is None:
        if lacks_start:
            raise ValueError(
                f"{path} was killed before it held the weights to start from: name them again (--weights)"
            )
        ranks.barrier()
        if ranks.is_main:
            with run.folder.held():
                run.folder.discard()
        return None
    return run


def _read(kind: Any, fields: dict[str, Any]) -> Any:
    """A frozen dataclass from its fields in JSON, where tuples are lists."""
    return kind(**{name: with_tuples(value) for name, value in fields.items()})
