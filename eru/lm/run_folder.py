"""A language model's run folder: what is written when it starts, and how other commands open it."""

import hashlib
import platform
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import eru
from eru.lm.batches import Streams
from eru.lm.model import LanguageModel
from eru.lm.recipes import SHAPE, Recipe, build_model
from eru.lm.text.corpus import Corpus
from eru.lm.text.tokenizer import Tokenizer, build_tokenizer, load_tokenizer
from eru.lm.text.tokens import TokenSplit, encode_corpus
from eru.training import Ranks, RunFolder, atomic_write

TRAINED = Path(__file__).with_name("trained")
"""Run folders of trained models that come with the package."""

_KIND = "language-model"
_DEFAULTS = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}


@dataclass(frozen=True)
class LanguageModelRun:
    """A run folder with what its config describes.

    Attributes:
        folder: the files.
        recipe: every number of the training.
        tokenizer: text to ids and back.
    """

    folder: RunFolder
    recipe: Recipe
    tokenizer: Tokenizer

    def build_model(self, device: str | torch.device = "cpu") -> LanguageModel:
        """The recipe's model with weights drawn from the current seed."""
        return build_model(self.recipe, self.tokenizer.vocab_size).to(device)

    def load_model(self, device: str | torch.device = "cpu") -> LanguageModel:
        """The trained model, in evaluation mode.

        Raises:
            ValueError: no weights yet, or a broken file.
        """
        model = self.build_model(device)
        try:
            model.load_state_dict(self.folder.load_weights(device))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"{self.folder.weights_path} does not fit its config.json: {reason}") from error
        return model.eval()

    def publish(self, out: str | Path) -> None:
        """Write a copy of half the size: weights in bfloat16, the tokenizer, config.json and the model card.

        The copy opens as the run does, and a new run can start from it; it does not resume.

        Args:
            out: its folder, which must not be there yet; it appears when it is complete.

        Raises:
            ValueError: something in the folder's place, or no weights to copy.
        """
        out = Path(out)
        if out.exists():
            raise ValueError(f"out={str(out)!r} is there already: choose a folder that is not")
        weights = {name: weight.bfloat16() for name, weight in self.folder.load_weights().items()}
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as draft:
            copy = RunFolder.create(Path(draft) / out.name, self.folder.config)
            copy.save_weights(weights)
            self.tokenizer.save(copy.path / "tokenizer")
            if self.folder.card_path.exists():
                copy.write_card(self.folder.card_path.read_text(encoding="utf-8"))
            copy.path.rename(out)


def open_run(path: str | Path) -> LanguageModelRun:
    """Open a run folder that training made, or by its name a trained model that comes with the package.

    Raises:
        ValueError: no run there, a broken file, or a run of something else.

    Example:
        >>> open_run("ptb-awd-7m").recipe.hidden_size
        448
    """
    if not Path(path).exists() and str(path) in trained_names():
        path = TRAINED / path
    folder = RunFolder.open(path)
    if folder.config.get("kind") != _KIND:
        raise ValueError(f"{path} holds no language model: kind={folder.config.get('kind')!r} in its config.json")
    try:
        recipe = Recipe(**folder.config["recipe"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder.config_path} is broken: {error}") from error
    return LanguageModelRun(folder, recipe, load_tokenizer(Path(path) / "tokenizer"))


def trained_names() -> list[str]:
    """Names of the trained models that come with the package.

    Example:
        >>> trained_names()
        ['ptb-awd-7m']
    """
    return sorted(config.parent.name for config in TRAINED.glob("*/config.json"))


@dataclass(frozen=True)
class _Start:
    """What a run that starts from another one takes from it."""

    name: str
    tokenizer: Tokenizer
    weights: bytes

    @classmethod
    def open(cls, path: str | Path, recipe: Recipe, corpus: Corpus) -> "_Start":
        """Read the run in ``path``, which must have the recipe's shape and the corpus' text."""
        run = open_run(path)
        its = {"recipe": {name: getattr(run.recipe, name) for name in SHAPE}, "data": run.folder.config.get("data")}
        ours = {"recipe": {name: getattr(recipe, name) for name in SHAPE}, "data": {"fingerprint": corpus.fingerprint}}
        replace(run.folder, config=its).check_same_config(ours, ignore=("data.name",))
        run.load_model()  # so that what is broken is told before the new folder is made
        return cls(run.folder.path.resolve().name, run.tokenizer, run.folder.weights_path.read_bytes())


def start_run(
    path: str | Path,
    recipe: Recipe,
    corpus: Corpus,
    precision: str,
    *,
    resume: bool,
    ranks: Ranks,
    start: str | Path | None = None,
) -> tuple[LanguageModelRun, dict[str, TokenSplit]]:
    """Make the run folder, or with ``resume`` open it where there is one, and encode the corpus.

    Whatever can fail because of the text or the recipe fails before anything is written. A resumed run keeps its own
    recipe's ``epochs``, since they are the length of its schedule. With ``start``, another run folder, the new one
    holds that run's tokenizer and best weights, so it no longer needs that run.

    Raises:
        ValueError: a folder that already holds a run, or with ``resume`` a run of another recipe, text, precision,
            start or number of processes; a text too small for the recipe; a start that does not fit.
    """
    config: dict[str, Any] = {
        "kind": _KIND,
        "recipe": asdict(recipe),
        "data": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "precision": precision,
        "processes": ranks.world_size,
    }
    source = None if start is None else _Start.open(start, recipe, corpus)
    if source is not None:
        config["start"] = {"run": source.name, "weights": hashlib.sha256(source.weights).hexdigest()}
    tokenizer_folder = Path(path) / "tokenizer"
    there = resume and (Path(path) / "config.json").exists()
    ranks.barrier()  # until all have looked, so that none takes the folder that is made below for an older one
    if there:
        folder = RunFolder.open(path)
        folder = replace(folder, config=_with_defaults(folder.config))
        folder.check_same_config({**folder.config, **config}, ignore=("recipe.epochs", "data.name"))
        if (tokenizer_folder / "tokenizer.json").exists():
            run = open_run(path)
            return run, encode_corpus(corpus, run.tokenizer)
        # A kill came before the tokenizer, which is written last: what follows makes it again.
        if source is None and "start" in folder.config:
            raise ValueError(
                f"{path} was killed before it held the weights to start from: name their run again (--from)"
            )
    if source is None:
        tokenizer = build_tokenizer(recipe.tokenizer, corpus.lines("train"), recipe.vocab_size)
    else:
        tokenizer = source.tokenizer
    splits = encode_corpus(corpus, tokenizer)
    _check_trainable(recipe, splits["train"], tokenizer.vocab_size, ranks)
    if ranks.is_main:
        if not there:
            versions = {"eru": eru.__version__, "torch": torch.__version__, "python": platform.python_version()}
            RunFolder.create(path, {**config, "versions": versions})
        if source is not None:
            with atomic_write(RunFolder.open(path).weights_path, "wb") as file:
                file.write(source.weights)
        tokenizer.save(tokenizer_folder)
    ranks.barrier()
    return open_run(path), splits


def _with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """A config whose recipe has every field: what one that is older than a field means is the field's default."""
    recipe = config.get("recipe")
    return {**config, "recipe": {**_DEFAULTS, **recipe}} if isinstance(recipe, dict) else config


def _check_trainable(recipe: Recipe, split: TokenSplit, vocab_size: int, ranks: Ranks) -> None:
    """Raise ValueError unless there is a model of these sizes and text enough for its batches."""
    Streams(split.ids, recipe.batch_size, ranks.rank, ranks.world_size)
    with torch.device("meta"):
        build_model(recipe, vocab_size)
