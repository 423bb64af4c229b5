"""The cross-entropy of a tied softmax that looks at a sample of the words, for training on a CPU."""

import math

import torch
from torch import Tensor

from eru.autocast import product_dtype, without_autocast


def sampling_chances(vocab_size: int, size: int) -> Tensor:
    r"""The chance of each token (V,) to be in a sample of about n = ``size`` tokens.

    .. math::
        \pi_v = \min\big(1, \sqrt{c / (v + 1)}\big), \qquad \sqrt c = \sqrt V - \sqrt{V - n}

    Ids are taken to be ordered by frequency, and the v-th most frequent word of a text to make up about 1 / (v + 1) of
    it (Zipf's law). An estimate of a sum varies least if each summand is drawn in proportion to the root of its mean
    square. A rare word is unlikely at most places, but where it fits it is as likely as a frequent one would be. So
    the mean square of its probability falls as its frequency does, and the chance is the root of that. Where ids have
    another order, as the first 256 of sentencepiece's, the estimates vary more and are as right on average.
    The chances add up to n, or to less than one token beside it.

    Args:
        vocab_size: V, the number of tokens that there are.
        size: n, the tokens of a sample, on average.

    Example:
        >>> chances = sampling_chances(10_000, 2500)
        >>> round(chances.sum().item()), chances[100].item(), round(chances[9999].item(), 3)
        (2500, 1.0, 0.134)
    """
    if not 0 < size <= vocab_size:
        raise ValueError(f"size={size}: must be from 1 to the vocabulary's {vocab_size} tokens")
    root = math.sqrt(vocab_size) - math.sqrt(vocab_size - size)
    return (root * torch.arange(1, vocab_size + 1, dtype=torch.float32).rsqrt()).clamp(max=1)


def sampled_cross_entropy(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, chances: Tensor) -> Tensor:
    r"""Mean cross-entropy of ``softmax(features weight^T + bias)``, with sums over all words estimated from a sample.

    Of the words other than the one to predict, each is in the sample S with its chance :math:`\pi_v`, and then stands
    for :math:`1 / \pi_v` words:

    .. math::
        \ell = \frac1N \sum_n \Big(\log \Big(e^{z_{n y_n}} + \sum_{v \in S \setminus y_n} \frac{e^{z_{nv}}}{\pi_v}
        \Big) - z_{n y_n}\Big)

    All N predictions share one sample. The sum is right on average; its logarithm, and with it the loss, is a little
    too low (arXiv 1412.2007 discusses such estimates). How many words are in a sample is only known when it is drawn,
    so ``torch.compile`` needs a break here, and a GPU is waited for.

    Args:
        features: The inputs of the softmax (N, E).
        weight: The embedding (V, E).
        bias: One number for each token that there is (V,).
        targets: The ids to predict (N,), each from 0 to V - 1.
        chances: The chance of each token to be in the sample (V,), above 0; see :func:`sampling_chances`.

    Example:
        >>> all_of_them = torch.ones(7)
        >>> targets = torch.tensor([0, 3, 6])
        >>> loss = sampled_cross_entropy(torch.zeros(3, 2), torch.zeros(7, 2), torch.zeros(7), targets, all_of_them)
        >>> round(loss.exp().item(), 4)
        7.0
    """
    dtype = product_dtype(features)
    features, weight = features.to(dtype), weight.to(dtype)
    chances = chances.to(torch.promote_types(chances.dtype, torch.float32))  # bfloat16 draws too coarse numbers
    sample = (torch.rand_like(chances) < chances).nonzero().squeeze(1)
    with without_autocast(features):
        # Both kinds of rows are taken at once, so that there is one gradient of the size of the embedding.
        rows = weight.index_select(0, torch.cat([sample, targets]))
        sampled, wanted = rows[: len(sample)], rows[len(sample) :]
        precise = torch.promote_types(dtype, torch.float32)
        scores = (features @ sampled.t()).to(precise) + (bias - chances.log())[sample]
        own = (features * wanted).sum(dim=1, dtype=precise) + bias[targets]
        columns = targets.new_full(chances.shape, -1)
        columns[sample] = torch.arange(len(sample), device=sample.device)
        column = columns[targets]
        doubled = (column >= 0).nonzero().squeeze(1)  # rows whose word is in the sample, where it must not count again
        scores[doubled, column[doubled]] = -math.inf
        return (torch.logaddexp(scores.logsumexp(dim=1), own) - own).mean()
