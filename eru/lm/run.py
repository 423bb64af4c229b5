"""A language model's run folder: how it starts, how it is resumed, and how other commands open it."""

import platform
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import eru
from eru.lm.build import build_model, check_model_fits
from eru.lm.model import LanguageModel
from eru.lm.recipes import Recipe, read_recipe, shape_of
from eru.lm.text.corpus import Corpus
from eru.lm.text.tokenizer import Tokenizer, load_tokenizer
from eru.storage import draft_of
from eru.training import Ranks, RunFolder

TRAINED = Path(__file__).with_name("trained")
"""Run folders of trained models that come with the package."""

_KIND = "language-model"
_TOKENIZER = "tokenizer"  # The folder within that of the run.


@dataclass(frozen=True)
class LanguageModelRun:
    """A run folder with what its config describes.

    Attributes:
        folder: The files.
        recipe: Every number of the training.
        tokenizer: Text to ids and back.
    """

    folder: RunFolder
    recipe: Recipe
    tokenizer: Tokenizer

    def load_model(self, device: str | torch.device = "cpu") -> LanguageModel:
        """The trained model, in evaluation mode.

        Args:
            device: Where it is to compute.

        Raises:
            ValueError: There are no weights yet, their file is broken, or the model is too large for this machine.
        """
        vocab_size = self.tokenizer.vocab_size
        weights = self.folder.load_weights(device)
        check_model_fits(self.recipe, vocab_size, device, training=False)
        model = build_model(self.recipe, vocab_size).to(device)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"{self.folder.weights_path} does not fit its config.json: {reason}") from error
        return model.eval()

    def publish(self, out: str | Path) -> None:
        """Write a copy of half the size: weights in bfloat16, the tokenizer, config.json and the model card.

        The copy opens as the run does, and a new run can start from it; it does not resume.

        Args:
            out: The copy's folder, which must not be there yet; it appears when it is complete.

        Raises:
            ValueError: Something is in the folder's place, or there are no weights to copy.
        """
        out = Path(out)
        if out.exists():
            raise ValueError(f"out={str(out)!r} is there already: choose a folder that is not")
        weights = {name: weight.bfloat16() for name, weight in self.folder.load_weights().items()}
        out.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(out) as draft:
            copy = RunFolder.create(draft, self.folder.config)
            copy.save_weights(weights)
            self.tokenizer.save(draft / _TOKENIZER)
            if self.folder.card_path.exists():
                copy.write_card(self.folder.card_path.read_text(encoding="utf-8"))


def open_run(path: str | Path) -> LanguageModelRun:
    """Open a run folder that training made, or by its name a trained model that comes with the package.

    Args:
        path: The folder or the name. A folder of that name goes before the package's model.

    Raises:
        ValueError: No run is there, a file is broken, or it is a run of something else.

    Example:
        >>> open_run("ptb-awd-7m").recipe.hidden_size
        648
    """
    if not Path(path).exists():
        if str(path) not in trained_names():
            names = ", ".join(trained_names())
            raise ValueError(f"no run in {path}, and no trained model of that name; the package has {names}")
        path = TRAINED / path
    folder, recipe = open_folder(path)
    return LanguageModelRun(folder, recipe, load_tokenizer(folder.path / _TOKENIZER))


def open_folder(path: str | Path) -> tuple[RunFolder, Recipe]:
    """Open a run folder, its tokenizer aside; its config then has every field of the recipe, which comes beside it.

    Raises:
        ValueError: No run is there, its config.json is broken, or it is a run of something else.
    """
    folder = RunFolder.open(path)
    if folder.config.get("kind") != _KIND:
        raise ValueError(f"{path} holds no language model: kind={folder.config.get('kind')!r} in its config.json")
    try:
        recipe = read_recipe(folder.config["recipe"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{folder.config_path} is broken: {error}") from error
    for name in ("versions", "start"):
        if not isinstance(folder.config.get(name, {}), dict):
            raise ValueError(f"{folder.config_path} is broken: {name!r} is no object")
    return replace(folder, config={**folder.config, "recipe": asdict(recipe)}), recipe


def trained_on(folder: RunFolder) -> tuple[str, str]:
    """The name and the fingerprint of the corpus that a run was trained on.

    Raises:
        ValueError: Its config.json does not name them.
    """
    try:
        return folder.config["data"]["name"], folder.config["data"]["fingerprint"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder.config_path} does not name the corpus of its training: {error}") from error


def trained_names() -> list[str]:
    """The names of the trained models that come with the package.

    Example:
        >>> trained_names()
        ['ptb-awd-7m']
    """
    return sorted(config.parent.name for config in TRAINED.glob("*/config.json"))


def with_shape_of(recipe: Recipe, run: str | Path) -> Recipe:
    """A recipe with the shape of a run, or of a trained model of the package, whose weights it is to start from.

    Where that has a softmax in two steps, the recipe looks at all words, since such a softmax knows no samples.
    """
    shape = shape_of(open_run(run).recipe)
    return replace(recipe, **shape, **({"sampled_softmax": 0} if shape["softmax_head"] else {}))


def open_start(path: str | Path, recipe: Recipe, corpus: Corpus) -> LanguageModelRun:
    """Open the run whose weights and tokenizer a new one starts from, which must be of its shape and on its text.

    Raises:
        ValueError: The run does not fit or is broken.
    """
    run = open_run(path)
    its = {"recipe": shape_of(run.recipe), "data": run.folder.config.get("data")}
    ours = {"recipe": shape_of(recipe), "data": {"fingerprint": corpus.fingerprint}}
    replace(run.folder, config=its).check_same_config(ours, ignore=("data.name",))
    return run


def run_config(
    recipe: Recipe, corpus: Corpus, precision: str, start: LanguageModelRun | None = None
) -> dict[str, Any]:
    """What config.json says that a run is, besides the versions that made it.

    Raises:
        ValueError: The run that it starts from has no weights.
    """
    config: dict[str, Any] = {
        "kind": _KIND,
        "recipe": asdict(recipe),
        "data": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "precision": precision,
    }
    if start is not None:
        config["start"] = {"run": start.folder.path.resolve().name, "weights": start.folder.weights_sha256()}
    return config


def create_run(
    path: str | Path, recipe: Recipe, tokenizer: Tokenizer, config: dict[str, Any], ranks: Ranks
) -> LanguageModelRun:
    """Make the folder of a new run, in the first process; the training itself writes everything else.

    Raises:
        ValueError: The folder holds a run or a file that the run would overwrite, or a file is in its place.
    """
    versions = {"eru": eru.__version__, "torch": torch.__version__, "python": platform.python_version()}
    folder = RunFolder(Path(path), {**config, "versions": versions})
    if ranks.is_main:
        RunFolder.create(path, folder.config)
        tokenizer.save(folder.path / _TOKENIZER)
    ranks.barrier()
    return LanguageModelRun(folder, recipe, tokenizer)


def resume_run(path: str | Path, recipe: Recipe, config: dict[str, Any], ranks: Ranks) -> LanguageModelRun | None:
    """Open a run to go on with, which must be the very run that is asked for.

    Only a run whose learning rate stays as it is may have another number of epochs than before. None is returned where
    there is no run, or where it was killed before its first checkpoint; what such a run left is removed.

    Raises:
        ValueError: The run is another one, has lost its checkpoint, or needs the weights to start from once more.
    """
    is_there = (Path(path) / "config.json").exists()
    ranks.barrier()  # No process may make the folder before every other one has looked for it.
    if not is_there:
        return None
    folder, saved = open_folder(path)
    folder.check_same_config({**folder.config, **config}, ignore=("recipe.epochs", "data.name"))
    if recipe.epochs != saved.epochs and saved.schedule != "constant":
        raise ValueError(
            f"epochs={recipe.epochs}: the learning rate of the run in {path} falls over {saved.epochs} epochs, so it "
            f"cannot go on with another number; leave it at {saved.epochs}, or start a new run"
        )
    if not folder.has_state and folder.load_state() is None:
        if "start" in folder.config and "start" not in config:
            raise ValueError(
                f"{path} was killed before it held the weights to start from: name their run again (--from)"
            )
        ranks.barrier()
        if ranks.is_main:
            with folder.held():
                remove_run(folder)
        return None
    if recipe.epochs != saved.epochs:
        folder = replace(folder, config={**folder.config, "recipe": asdict(recipe)})
        if ranks.is_main:
            with folder.held():
                folder.save_config()
    return LanguageModelRun(folder, recipe, load_tokenizer(folder.path / _TOKENIZER))


def remove_run(folder: RunFolder) -> None:
    """Remove a run's files, and its folder where nothing else is in it."""
    shutil.rmtree(folder.path / _TOKENIZER, ignore_errors=True)
    folder.discard()
