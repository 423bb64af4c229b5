"""Tag the brackets of a text as matched or unmatched with a bidirectional layer over packed sequences.

A text of 5 to 40 characters holds letters, round and square brackets. Each kind of bracket is matched on its own: a
closing one belongs to the nearest open one before it. The task is to tag each character as a letter (`.`), a matched
bracket (`m`) or an unmatched one (`u`). The tag of an opening bracket depends on what follows, and that of a closing
one on what precedes, at any distance.

The score is the share of the brackets of 1000 new texts that are tagged rightly; higher is better. The baseline gives
each character the tag that it has most often, whatever stands around it.

The goal is a score of at least 0.98.

    python examples/tag.py --cell eru
"""

import random
import sys
from collections import Counter

import torch
from program import parse_arguments, report
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from eru import ERU

ALPHABET, TAGS = "()[]abcd", ".mu"
EMBEDDING_SIZE, HIDDEN_SIZE, BATCH_SIZE, LEARNING_RATE = 32, 64, 64, 5e-3
IGNORED = -100  # The padding has this target, which cross_entropy leaves out.
GOAL = 0.98


def matching(text: str) -> str:
    """Tag each character rightly.

    >>> matching("a)(b[c)]")
    '.um.m.mm'
    """
    tags = ["." if char.isalpha() else "u" for char in text]
    open_positions: dict[str, list[int]] = {"(": [], "[": []}
    for i, char in enumerate(text):
        if char in "([":
            open_positions[char].append(i)
        elif char in ")]" and (positions := open_positions["(" if char == ")" else "["]):
            tags[i] = tags[positions.pop()] = "m"
    return "".join(tags)


def sample(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Draw `count` random texts, and tag them."""
    texts = ["".join(rng.choices(ALPHABET, k=rng.randint(5, 40))) for _ in range(count)]
    return [(text, matching(text)) for text in texts]


def encode(pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the characters (B, T), the lengths (B,), and the tags (B, T) padded with IGNORED."""
    chars = [torch.tensor([ALPHABET.index(char) for char in text]) for text, _ in pairs]
    tags = [torch.tensor([TAGS.index(tag) for tag in tags]) for _, tags in pairs]
    lengths = torch.tensor([len(text) for text, _ in pairs])
    return pad_sequence(chars, True), lengths, pad_sequence(tags, True, padding_value=IGNORED)


class Tagger(nn.Module):
    """Embedding, a bidirectional recurrent layer that sees each text's own length, and a linear layer."""

    def __init__(self, layer: type[nn.Module]):
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), EMBEDDING_SIZE)
        self.layer = layer(EMBEDDING_SIZE, HIDDEN_SIZE, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * HIDDEN_SIZE, len(TAGS))

    def forward(self, chars: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits (B, T, tags) of the tags of padded `chars` (B, T)."""
        packed = pack_padded_sequence(self.embedding(chars), lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.layer(packed)[0], batch_first=True)
        return self.head(hidden)


def train(model: Tagger, rng: random.Random, steps: int) -> None:
    """Minimise the cross-entropy of the tags on fresh texts."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for step in range(1, steps + 1):
        chars, lengths, tags = encode(sample(rng, BATCH_SIZE))
        loss = nn.functional.cross_entropy(model(chars, lengths).flatten(0, 1), tags.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.4f}", file=sys.stderr)


@torch.no_grad()
def accuracy(model: Tagger, pairs: list[tuple[str, str]]) -> float:
    """Return the share of the brackets that the model tags rightly."""
    chars, lengths, tags = encode(pairs)
    right = model(chars, lengths).argmax(dim=-1) == tags
    return right[tags > TAGS.index(".")].float().mean().item()


def most_frequent_tag(train_pairs: list[tuple[str, str]], test_pairs: list[tuple[str, str]]) -> float:
    """Return the share of the brackets that each character's most frequent tag tags rightly."""
    seen = Counter(pair for text, tags in train_pairs for pair in zip(text, tags, strict=True))
    asked = Counter(pair for text, tags in test_pairs for pair in zip(text, tags, strict=True))
    best = {char: max(TAGS, key=lambda tag: seen[char, tag]) for char in "()[]"}
    right = sum(asked[char, tag] for char, tag in best.items())
    return round(right / sum(asked[char, tag] for char in best for tag in TAGS), 4)


def main(argv: list[str] | None = None) -> int:
    """Train the model, print its score beside the baseline as one JSON line, and return 0 if the goal is reached."""
    args = parse_arguments(__doc__, argv, steps=150)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    test_pairs = sample(rng, 1000)
    baseline = most_frequent_tag(sample(rng, 1000), test_pairs)

    layer = {"eru": ERU, "lstm": nn.LSTM}[args.cell]
    model = Tagger(layer)
    train(model, rng, args.steps)
    score = accuracy(model, test_pairs)

    known = {"most_frequent_tag": baseline}
    return report("tag", args, model, score=score, baselines=known, goal=GOAL, reached=score >= GOAL)


if __name__ == "__main__":
    torch.set_num_threads(1)  # The products of a step are too small to be shared among threads.
    sys.exit(main())
