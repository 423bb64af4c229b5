import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eru.lm.adapt.cache import NeuralCache

V = 4


def by_hand(hidden, words, window, theta):
    """Probabilities of every word by the paper's sums, token by token; None where the cache is empty."""
    found = []
    for t, word in enumerate(words):
        past = range(max(t - window, 0), t)
        shares = [math.exp(theta * sum(a * b for a, b in zip(hidden[t], hidden[i], strict=True))) for i in past]
        hits = [share for share, i in zip(shares, past, strict=True) if words[i] == word]
        found.append(sum(hits) / sum(shares) if shares else None)
    return found


@given(
    words=st.lists(st.integers(0, V - 1), min_size=1, max_size=30),
    windows=st.lists(st.integers(0, 35), min_size=1, max_size=3),
    thetas=st.lists(st.floats(0, 3), min_size=1, max_size=3),
    parts=st.lists(st.integers(1, 12), min_size=30, max_size=30),
)
@settings(max_examples=40, deadline=None)
def test_against_the_sums_of_the_paper(words, windows, thetas, parts):
    hidden = torch.randn(len(words), 5, generator=torch.Generator().manual_seed(len(words)), dtype=torch.float64)
    cache, found, start = NeuralCache(windows, thetas), [], 0
    for size in parts:
        if start < len(words):
            found.append(cache(hidden[start : start + size], torch.tensor(words[start : start + size])))
            start += size
    found = torch.cat(found, dim=-1)
    assert found.shape == (len(windows), len(thetas), len(words))
    for row, window in zip(found, windows, strict=True):
        for column, theta in zip(row, thetas, strict=True):
            for log, expected in zip(column.tolist(), by_hand(hidden.tolist(), words, window, theta), strict=True):
                if expected is None:
                    assert math.isnan(log)
                else:
                    assert math.isclose(math.exp(log), expected, rel_tol=1e-9, abs_tol=1e-12)


def test_the_probabilities_of_all_words_add_up_to_one():
    hidden, words = torch.randn(20, 3, dtype=torch.float64), torch.arange(20) % V
    total = 0
    for last in range(V):
        cache = NeuralCache([6, 50], [0.5])
        cache(hidden[:-1], words[:-1])
        total = total + cache(hidden[-1:], torch.tensor([last])).exp()
    torch.testing.assert_close(total, torch.ones(2, 1, 1, dtype=torch.float64))


def test_long_products_overflow_nothing():
    hidden, words = torch.full((50, 4), 100.0), torch.arange(50) % 2
    found = NeuralCache([9], [30.0])(hidden, words).exp()[0, 0]
    assert math.isclose(found[-1].item(), 4 / 9, rel_tol=1e-5)  # equal scores count words


def test_half_precision_states_are_taken_in_float32():
    hidden, words = torch.randn(30, 4).bfloat16(), torch.arange(30) % 3
    found = NeuralCache([10], [0.7])(hidden, words)
    assert found.dtype == torch.float32
    assert torch.equal(found[..., 1:], NeuralCache([10], [0.7])(hidden.float(), words)[..., 1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": [1, -1]}, r"windows=\[1, -1\]: each must be finite and not negative"),
        ({"thetas": [-0.5]}, r"thetas=\[-0\.5\]"),
        ({"thetas": [math.nan]}, r"thetas=\[nan\]"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        NeuralCache(**{"windows": [1], "thetas": [1.0]} | options)
