"""The losses of 50 training steps, checked in so that a silent change of the training is seen.

    python tests/lm/golden_curve.py

writes golden_curve.json anew, to be done only for a change that is meant to alter the training; the commit says why.
"""

import json
import random
import tempfile
from pathlib import Path

import torch

from eru.lm.loop import train
from eru.lm.recipes import make_recipe
from eru.lm.text.corpus import load_corpus
from eru.training import RunFolder

FILE = Path(__file__).with_suffix(".json")
# Float32 sums differ by their order between processors; the rest of the way to a real change is room.
TOLERANCE = 1e-3


def losses(folder: Path) -> dict[str, list[float]]:
    """Train 50 steps in one thread; the loss of each, and the validation losses."""
    draw = random.Random(0)
    words = ["the", "cat", "dog", "bird", "saw", "heard", "and", "or", ".", "!"]
    for split, lines in (("train", 60), ("valid", 12), ("test", 12)):
        text = "".join(" ".join(draw.choices(words, range(10, 0, -1), k=9)) + "\n" for _ in range(lines))
        (folder / f"{split}.txt").write_text(text)
    # No dropout: its draws differ between builds of torch.
    recipe = make_recipe(
        "small",
        embedding_size=12,
        hidden_size=20,
        shared_reduce=False,  # as when the curve was recorded
        branches=None,
        groups=None,
        recurrent_groups=1,
        input_dropout=0.0,
        layer_dropout=0.0,
        output_dropout=0.0,
        activation_regularization=2.0,
        temporal_regularization=1.0,
        epochs=4,
        batch_size=4,
        bptt=8,
        learning_rate=0.01,
        warmup_steps=5,
        weight_decay=0.02,
        log_every=1,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(recipe, load_corpus(str(folder)), folder / "run", max_steps=50, quiet=True)
    finally:
        torch.set_num_threads(threads)
    records = RunFolder.open(folder / "run").metrics()
    return {
        "train": [record["loss"] for record in records if record["event"] == "step"],
        "valid": [record["valid_loss"] for record in records if record["event"] in ("epoch", "stop")],
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = losses(Path(folder))
    FILE.write_text(json.dumps({k: [round(v, 6) for v in values] for k, values in found.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
