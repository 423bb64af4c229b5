"""Rewrite written dates as ISO 8601 with an encoder-decoder and attention.

The task is to turn "the 3rd of march 1987" into "1987-03-03", character by character, for days from 1900 to 2099 that
are written in six ways. The decoder steps a cell: it reads the symbol before, attends to the encoder's states by dot
products, and predicts the next symbol.

The score is the share of 1000 dates that greedy decoding gets wholly right; higher is better. None of these days
occurs in training. The baseline copies the digits of year and day and always guesses January.

The goal is a score of at least 0.95.

    python examples/translate.py --cell eru --picture translate.png

The picture shows where the decoder looks for each symbol that it writes, for the first of the 1000 days in two ways.
"""

import datetime
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from program import drawing, make_parser, report, train
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from eru import ERU, ERUCell

SOURCE_ALPHABET = "\0 ,0123456789abcdefghijklmnopqrstuvwxyz"  # \0 is the padding.
TARGET_ALPHABET = "^-0123456789"  # ^ is the start symbol.
TARGET_LENGTH = len("1987-03-03")
EMBEDDING_SIZE, HIDDEN_SIZE, BATCH_SIZE, LEARNING_RATE = 32, 64, 64, 5e-3
GOAL = 0.95


def ways(day: datetime.date) -> list[str]:
    """Write `day` in the six ways."""
    suffix = "th" if 11 <= day.day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    styles = [
        f"the {day.day}{suffix} of {day:%B} {day.year}",
        f"{day.day} {day:%b} {day.year}",
        f"{day:%B} {day.day}, {day.year}",
        f"{day:%b} {day.day}{suffix} {day.year}",
        f"{day:%A}, {day.day} {day:%B} {day.year}",
        f"{day.year}, {day:%B} the {day.day}{suffix}",
    ]
    return [style.lower() for style in styles]


def encode(texts: list[str], days: list[datetime.date]) -> tuple[Tensor, Tensor, Tensor]:
    """Return written dates (B, S), their lengths (B,), and translations (B, 1 + TARGET_LENGTH) with a start symbol."""
    sources = [torch.tensor([SOURCE_ALPHABET.index(char) for char in text]) for text in texts]
    targets = [[TARGET_ALPHABET.index(char) for char in "^" + day.isoformat()] for day in days]
    return pad_sequence(sources, batch_first=True), torch.tensor([*map(len, texts)]), torch.tensor(targets)


class Translator(nn.Module):
    """A bidirectional encoder and a decoder that attends to it at every step."""

    def __init__(self, layer: type[nn.Module], cell: type[nn.Module]):
        super().__init__()
        self.source_embedding = nn.Embedding(len(SOURCE_ALPHABET), EMBEDDING_SIZE)
        self.target_embedding = nn.Embedding(len(TARGET_ALPHABET), EMBEDDING_SIZE)
        self.encoder = layer(EMBEDDING_SIZE, HIDDEN_SIZE // 2, batch_first=True, bidirectional=True)
        self.decoder = cell(EMBEDDING_SIZE + HIDDEN_SIZE, HIDDEN_SIZE)
        self.head = nn.Linear(2 * HIDDEN_SIZE, len(TARGET_ALPHABET))

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits (B, TARGET_LENGTH, symbols) and attention (B, TARGET_LENGTH, S).

        The decoder reads `target`, or without it its own predictions.
        """
        embedded = self.source_embedding(source)
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        memory, _ = pad_packed_sequence(self.encoder(packed)[0], batch_first=True)  # (B, S, H)
        padding = source == 0
        symbol, context = source.new_zeros(len(source)), memory.new_zeros(len(source), HIDDEN_SIZE)
        state, logits, attention = None, [], []
        for t in range(TARGET_LENGTH):
            if t > 0:  # The first symbol that is read is the start symbol.
                symbol = logits[-1].argmax(dim=-1) if target is None else target[:, t]
            state = self.decoder(torch.cat([self.target_embedding(symbol), context], dim=-1), state)
            scores = torch.einsum("bsh,bh->bs", memory, state[0]).masked_fill(padding, -torch.inf)
            attention.append(scores.softmax(dim=-1))
            context = torch.einsum("bs,bsh->bh", attention[-1], memory)
            logits.append(self.head(torch.cat([state[0], context], dim=-1)))
        return torch.stack(logits, dim=1), torch.stack(attention, dim=1)


def losses(model: Translator, days: list[datetime.date], rng: random.Random) -> Iterator[Tensor]:
    """Give the cross-entropy of the next symbol, given the right ones before it, batch by batch."""
    while True:
        batch = rng.choices(days, k=BATCH_SIZE)
        source, lengths, target = encode([rng.choice(ways(day)) for day in batch], batch)
        logits, _ = model(source, lengths, target)
        yield nn.functional.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten())


@torch.no_grad()
def draw(path: Path, model: Translator, day: datetime.date, title: str) -> None:
    """Draw, for a day that is written in two ways, which letters the decoder looks at for each of its symbols."""
    texts = ways(day)[::4]
    source, lengths, _ = encode(texts, [day] * len(texts))
    logits, attention = model(source, lengths)
    answers = ["".join(TARGET_ALPHABET[symbol] for symbol in row) for row in logits.argmax(dim=-1).tolist()]
    with drawing(path, title, height=5.0) as figure:
        rows = figure.subplots(len(texts))
        for axes, text, answer, weights in zip(rows, texts, answers, attention, strict=True):
            axes.imshow(weights[:, : len(text)].numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
            axes.set_xticks(range(len(text)), text, family="monospace")
            axes.set_yticks(range(TARGET_LENGTH), answer, family="monospace")
            axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
            axes.spines[:].set_visible(False)


def main(argv: list[str] | None = None) -> int:
    """Train the model, print its score beside the baseline as one JSON line, and return 0 if the goal is reached."""
    args = make_parser(__doc__, steps=200).parse_args(argv)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    span = range(datetime.date(1900, 1, 1).toordinal(), datetime.date(2100, 1, 1).toordinal())
    days = [datetime.date.fromordinal(n) for n in rng.sample(span, len(span))]
    test_days, train_days = days[:1000], days[1000:]
    source, lengths, target = encode([rng.choice(ways(day)) for day in test_days], test_days)

    layer, cell = {"eru": (ERU, ERUCell), "lstm": (nn.LSTM, nn.LSTMCell)}[args.cell]
    model = Translator(layer, cell)
    train(model, losses(model, train_days, rng), steps=args.steps, learning_rate=LEARNING_RATE)
    with torch.no_grad():
        right = model(source, lengths)[0].argmax(dim=-1) == target[:, 1:]
    score = right.all(dim=1).float().mean().item()
    if args.picture is not None:
        draw(args.picture, model, test_days[0], f"Where it looks while it writes ({score:.1%} of 1000 dates right)")

    known = {"digits_and_january": sum(day.month == 1 for day in test_days) / len(test_days)}
    return report("translate", args, model, score=score, baselines=known, goal=GOAL, reached=score >= GOAL)


if __name__ == "__main__":
    torch.set_num_threads(1)  # The products of a step are too small to be shared among threads.
    sys.exit(main())
