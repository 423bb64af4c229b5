import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from eru_cli import main

WORDS = ["the", "cat", "dog", "sat", "on", "mat", "a", "red", "big", "ran", "to", "house", "and", "saw", "bird"]
# Windows of a fixed length give the number of steps a closed formula; a constant rate lets a run be made longer.
TINY = (
    "embedding_size=8",
    "hidden_size=8",
    "num_layers=2",
    "batch_size=2",
    "bptt=10",
    "random_bptt=false",
    "log_every=1",
    "schedule=constant",
)


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one line on stdout, as strict JSON."""
        assert (self.code, len(self.out.splitlines())) == (0, 1), self
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def _call(*arguments: object) -> Answer:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    return Answer(result.exit_code, result.stdout, result.stderr)


def _train(folder: Path, data: Path, *arguments: object) -> Answer:
    settings = [f"--set={field}" for field in TINY]
    return _call("lm-train", "--recipe=small", "--device=cpu", "--data", data, "--out", folder, *settings, *arguments)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERU_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few dozen lines; one word of the validation text, ``zebra``, is not in the training text."""
    draw = random.Random(0)
    sizes = {"train": 60, "valid": 12, "test": 10}
    texts = {
        split: "".join(f"{' '.join(draw.choices(WORDS, k=draw.randint(3, 8)))}\n" for _ in range(lines))
        for split, lines in sizes.items()
    }
    texts["valid"] += "zebra\n"
    folder = tmp_path_factory.mktemp("data") / "tiny"
    folder.mkdir()
    for split, text in texts.items():
        (folder / f"{split}.txt").write_text(text)
    return folder


@pytest.fixture(scope="session")
def call():
    """``call(*arguments)`` runs the command line in this process; any exception but an exit fails the test."""
    return _call


@pytest.fixture
def train(corpus: Path, tmp_path: Path):
    """``train(*arguments)`` trains the tiny model into ``tmp_path / "run"``."""
    return lambda *arguments, data=corpus: _train(tmp_path / "run", data, *arguments)


@pytest.fixture(scope="session")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """The folder of a run of two epochs, not to be changed, and what its training printed."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    return folder, _train(folder, corpus, "--epochs=2", "--json")


@pytest.fixture
def run(trained: tuple[Path, Answer], tmp_path: Path) -> Path:
    """A copy of that run, in the folder that ``train`` writes into."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))
