import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eru.lm import ngram
from eru.lm.ngram import bigram_perplexity, unigram_perplexity

V = 5
IDS = st.lists(st.integers(0, V - 1), min_size=2, max_size=40)


def perplexity(probability, ids):
    return math.exp(-sum(math.log(probability(v, w)) for v, w in pairwise(ids)) / (len(ids) - 1))


def unigram(train):
    counts = Counter(train)
    return lambda _, w: (counts[w] + 1) / (len(train) + V)


def kneser_ney(train):
    """The formula of the docstring, one probability at a time."""
    pairs = Counter(pairwise(train))
    once, twice = (sum(count == n for count in pairs.values()) for n in (1, 2))
    discount = once / (once + 2 * twice) if once else 0.5

    def probability(v, w):
        q = (sum(b == w for _, b in pairs) + 1) / (len(pairs) + V)
        context = sum(count for (a, _), count in pairs.items() if a == v)
        if context == 0:
            return q
        followers = sum(a == v for a, _ in pairs)
        return (max(pairs[v, w] - discount, 0) + discount * followers * q) / context

    return probability


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
@given(train=IDS, held_out=IDS)
def test_against_brute_force(chunk, train, held_out):
    arrays = np.array(train, np.uint16), np.array(held_out, np.uint16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram, "_CHUNK", chunk)
        assert unigram_perplexity(*arrays, V) == pytest.approx(perplexity(unigram(train), held_out))
        assert bigram_perplexity(*arrays, V) == pytest.approx(perplexity(kneser_ney(train), held_out))


@given(train=IDS, context=st.integers(0, V - 1))
def test_probabilities_sum_to_one(train, context):
    array = np.array(train)
    for model in (unigram_perplexity, bigram_perplexity):
        total = sum(1 / model(array, np.array([context, w]), V) for w in range(V))
        assert total == pytest.approx(1)


def test_pairs_of_large_vocabularies_do_not_overflow():
    ids = np.array([65535, 65534, 65535, 65534], np.uint16)
    assert bigram_perplexity(ids, ids, 65536) < 4


@pytest.mark.parametrize("model", [unigram_perplexity, bigram_perplexity])
def test_bad_arrays_are_named(model):
    good = np.array([0, 1])
    with pytest.raises(ValueError, match="train_ids: has 1 token"):
        model(good[:1], good, 2)
    with pytest.raises(ValueError, match="eval_ids: has 0 token"):
        model(good, good[:0], 2)
    with pytest.raises(ValueError, match="eval_ids: has the id 2, must be below vocab_size=2"):
        model(good, good + 1, 2)
