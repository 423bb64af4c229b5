import random
from collections.abc import Callable, Iterator, Sequence

import pytest
from tiny_runs import loop

from eru.lm.text.corpus import SPLITS, Corpus, load_corpus


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of every test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERU_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def make_corpus(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Corpus]:
    """Write the lines of the three splits into a folder of their own and open it as a corpus."""

    def make(*splits: Sequence[str]) -> Corpus:
        folder = tmp_path_factory.mktemp("corpus")
        for name, lines in zip(SPLITS, splits, strict=True):
            (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
        return load_corpus(str(folder))

    return make


@pytest.fixture(scope="session")
def corpus(make_corpus: Callable[..., Corpus]) -> Corpus:
    """A text whose validation part is unlike it, so that its loss soon rises."""
    draw = random.Random(1)
    lines = [" ".join(draw.choices("abcdef", (9, 9, 9, 9, 1, 1), k=8)) for _ in range(28)]
    return make_corpus(lines, ["e f e f f e"] * 3, ["a b f"])


@pytest.fixture(scope="module")
def no_pictures() -> Iterator[None]:
    """Draw no learning curves, which would take longer than the tiny runs themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "plot_curve", lambda metrics, path, **options: False)
        yield
