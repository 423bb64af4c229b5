"""Tag the brackets of a text as matched or unmatched with a bidirectional layer over packed sequences.

A text of 5 to 40 characters holds letters, round and square brackets. Each kind of bracket is matched on its own: a
closing one belongs to the nearest open one before it. The task is to tag each character as a letter (`.`), a matched
bracket (`m`) or an unmatched one (`u`). The tag of an opening bracket depends on what follows, and that of a closing
one on what precedes, at any distance.

The score is the share of the brackets of 1000 new texts that are tagged rightly; higher is better. The baseline gives
each character the tag that it has most often, whatever stands around it.

The goal is a score of at least 0.98.

    python examples/tag.py --cell eru --picture tag.png

The picture shows the texts with the tags that they were given, and frames the mistakes.
"""

import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from program import drawing, make_parser, report, train
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from eru import ERU

ALPHABET, TAGS = "()[]abcd", ".mu"
SHORTEST, LONGEST = 5, 40
EMBEDDING_SIZE, HIDDEN_SIZE, BATCH_SIZE, LEARNING_RATE = 32, 64, 64, 5e-3
IGNORED = -100  # The padding has this target, which cross_entropy leaves out.
GOAL = 0.98
ROWS = 10  # of the picture


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
    texts = ["".join(rng.choices(ALPHABET, k=rng.randint(SHORTEST, LONGEST))) for _ in range(count)]
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


def losses(model: Tagger, rng: random.Random) -> Iterator[Tensor]:
    """Give the cross-entropy of the tags on one batch of fresh texts after the other."""
    while True:
        chars, lengths, tags = encode(sample(rng, BATCH_SIZE))
        yield nn.functional.cross_entropy(model(chars, lengths).flatten(0, 1), tags.flatten())


@torch.no_grad()
def answer(model: Tagger, pairs: list[tuple[str, str]]) -> list[str]:
    """Return the tags that the model gives to each text."""
    chars, lengths, _ = encode(pairs)
    best = model(chars, lengths).argmax(dim=-1).tolist()
    return ["".join(TAGS[tag] for tag in row[: len(text)]) for row, (text, _) in zip(best, pairs, strict=True)]


def accuracy(answers: list[str], pairs: list[tuple[str, str]]) -> float:
    """Return the share of the brackets that are tagged rightly."""
    given_and_true = zip("".join(answers), "".join(tags for _, tags in pairs), strict=True)
    right = [given == true for given, true in given_and_true if true != "."]
    return sum(right) / len(right)


def most_frequent_tag(train_pairs: list[tuple[str, str]], test_pairs: list[tuple[str, str]]) -> list[str]:
    """Return the answers that give each character the tag that it has most often in training."""
    seen = Counter(pair for text, tags in train_pairs for pair in zip(text, tags, strict=True))
    best = {char: max(TAGS, key=lambda tag: seen[char, tag]) for char in ALPHABET}
    return ["".join(best[char] for char in text) for text, _ in test_pairs]


def draw(path: Path, answers: list[str], pairs: list[tuple[str, str]], title: str) -> None:
    """Draw texts with the tags that were given to their characters: those with a mistake first, then the longest."""
    meanings = {".": ("letter", "0.93"), "m": ("matched", "#a6d8a8"), "u": ("unmatched", "#ffc766")}
    rows = sorted(zip(answers, pairs, strict=True), key=lambda row: (row[0] == row[1][1], -len(row[0])))[:ROWS]
    with drawing(path, title) as figure:
        axes = figure.subplots()
        axes.set(xlim=(-0.5, LONGEST - 0.5), ylim=(ROWS - 0.5, -0.5))
        axes.set_axis_off()
        for row, (given, (text, tags)) in enumerate(rows):
            for column, (char, tag, true) in enumerate(zip(text, given, tags, strict=True)):
                box = {"facecolor": meanings[tag][1], "edgecolor": "none" if tag == true else "red", "pad": 2.5}
                axes.text(column, row, char, bbox=box, ha="center", va="center", family="monospace", size=10)
        for name, colour in meanings.values():
            axes.plot([], [], "s", color=colour, label=name)
        axes.plot([], [], "s", color="white", markeredgecolor="red", label="mistake")
        figure.legend(loc="outside lower center", ncols=4)


def main(argv: list[str] | None = None) -> int:
    """Train the model, print its score beside the baseline as one JSON line, and return 0 if the goal is reached."""
    args = make_parser(__doc__, steps=150).parse_args(argv)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    test_pairs = sample(rng, 1000)
    naive = most_frequent_tag(sample(rng, 1000), test_pairs)

    layer = {"eru": ERU, "lstm": nn.LSTM}[args.cell]
    model = Tagger(layer)
    train(model, losses(model, rng), steps=args.steps, learning_rate=LEARNING_RATE)
    answers = answer(model, test_pairs)
    score, baseline = accuracy(answers, test_pairs), accuracy(naive, test_pairs)
    if args.picture is not None:
        draw(args.picture, answers, test_pairs, f"{score:.1%} of the brackets of 1000 texts are tagged rightly")
    known = {"most_frequent_tag": baseline}
    return report("tag", args, model, score=score, baselines=known, goal=GOAL, reached=score >= GOAL)


if __name__ == "__main__":
    torch.set_num_threads(1)  # The products of a step are too small to be shared among threads.
    sys.exit(main())
