"""Perplexities of the two baselines that a language model has to beat: unigrams and interpolated bigrams.

Both take training and evaluated tokens, 1-D, at least 2 of each and all below ``vocab_size``, V; what is not so is a
ValueError. Of the evaluated ones the first is not predicted, as by a language model that reads it.
"""

import numpy as np

_CHUNK = 1 << 22  # tokens counted at once


def unigram_perplexity(train_ids: np.ndarray, eval_ids: np.ndarray, vocab_size: int) -> float:
    """Perplexity of the training frequencies, add-one smoothed: p(w) = (c(w) + 1) / (N + V).

    Example:
        >>> round(unigram_perplexity(np.array([0, 0, 1]), np.array([0, 0, 1]), 2), 3)  # p = 3/5, 2/5
        2.041
    """
    _check(train_ids, eval_ids, vocab_size)
    probabilities = _add_one(_counts(train_ids, vocab_size))
    return _perplexity(probabilities[eval_ids[1:]])


def bigram_perplexity(train_ids: np.ndarray, eval_ids: np.ndarray, vocab_size: int) -> float:
    """Perplexity of interpolated Kneser-Ney bigrams, the strongest of the usual ones, without any tuning.

    p(w | v) = (max(c(v, w) - D, 0) + D N(v, .) q(w)) / c(v), or q(w) where v was never followed by anything, with

    - N(v, .), N(., w): how many distinct tokens follow v, precede w;
    - q(w) = (N(., w) + 1) / (sum of N(., .) + V), the add-one smoothed continuation probability;
    - D = n1 / (n1 + 2 n2), from the numbers of pairs seen once and twice (1/2 where no pair was seen once).

    Example:
        >>> round(bigram_perplexity(np.array([0, 1, 0, 1, 0]), np.array([0, 1, 0, 1]), 2), 3)
        1.143
    """
    _check(train_ids, eval_ids, vocab_size)
    v, w = eval_ids[:-1].astype(np.int64), eval_ids[1:].astype(np.int64)
    wanted, seen = v * vocab_size + w, np.zeros(len(v), np.int64)
    context, followers, preceding = (np.zeros(vocab_size, np.int64) for _ in range(3))
    once = twice = 0
    # The pairs of a large text are counted part by part, by their first token, so that few are in memory at a time.
    parts = 1 + len(train_ids) // _CHUNK
    for part in range(parts):
        pairs, counts = _pair_counts(train_ids, vocab_size, part, parts)
        if not len(pairs):
            continue
        once, twice = once + int((counts == 1).sum()), twice + int((counts == 2).sum())
        before, after = np.divmod(pairs, vocab_size)
        context += np.bincount(before, weights=counts, minlength=vocab_size).astype(np.int64)
        followers += np.bincount(before, minlength=vocab_size)
        preceding += np.bincount(after, minlength=vocab_size)
        place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        seen += np.where(pairs[place] == wanted, counts[place], 0)
    discount = once / (once + 2 * twice) if once else 0.5
    continuation = _add_one(preceding)
    known = context[v] > 0
    weight = np.where(known, discount * followers[v] / np.maximum(context[v], 1), 1.0)
    kept = np.maximum(seen - discount, 0) / np.maximum(context[v], 1)
    return _perplexity(kept + weight * continuation[w])


def _check(train_ids: np.ndarray, eval_ids: np.ndarray, vocab_size: int) -> None:
    for name, ids in (("train_ids", train_ids), ("eval_ids", eval_ids)):
        if len(ids) < 2:
            raise ValueError(f"{name}: has {len(ids)} token(s), needs at least 2")
        if ids.max() >= vocab_size:
            raise ValueError(f"{name}: has the id {ids.max()}, must be below vocab_size={vocab_size}")


def _counts(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    chunks = (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))
    return sum((np.bincount(chunk, minlength=vocab_size) for chunk in chunks), np.zeros(vocab_size, np.int64))


def _pair_counts(ids: np.ndarray, vocab_size: int, part: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs of neighbours as ``first * vocab_size + second``, sorted, and how often each occurs.

    Of several parts each has the pairs whose first token leaves its number as the remainder.
    """
    pairs, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    for start in range(0, len(ids) - 1, _CHUNK):
        chunk = ids[start : start + _CHUNK + 1]
        ours = chunk[:-1] % parts == part
        first, second = chunk[:-1][ours].astype(np.int64), chunk[1:][ours]
        new_pairs, new_counts = np.unique(first * vocab_size + second, return_counts=True)
        pairs, place = np.unique(np.concatenate([pairs, new_pairs]), return_inverse=True)
        counts = np.bincount(place, weights=np.concatenate([counts, new_counts])).astype(np.int64)
    return pairs, counts


def _add_one(counts: np.ndarray) -> np.ndarray:
    return (counts + 1) / (counts.sum() + len(counts))


def _perplexity(probabilities: np.ndarray) -> float:
    return float(np.exp(-np.log(probabilities).mean()))
