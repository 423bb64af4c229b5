"""Long work on a CPU: does the memory of the process stay as it is, and the number of its open files?

    python benchmarks/soak.py [--minutes 60] [--predictions 10000] [--words 100000]

In turn a language model trains for so long, three vision models predict so often, and an ERU reads so many vectors one
by one. Resident memory and open files are read after the first tenth of the work, at its end, and at their highest in
between. Linux only.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from environment import write_result
from PIL import Image

from eru import ERU
from eru.lm.loop import train
from eru.lm.recipes import make_recipe
from vision import create_model
from vision.datasets import numbered
from vision.predictor import Predictor, resized


def memory() -> float:
    """The resident memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def watched(what: str, work: Iterator[float]) -> dict[str, Any]:
    """Do work that tells again and again how much of it is done, from 0 to 1, and watch the process."""
    start, early, most = time.perf_counter(), None, (0.0, 0)
    for count, done in enumerate(work):
        if count % 10 and done < 1:
            continue
        now = memory(), open_files()
        most = max(most[0], now[0]), max(most[1], now[1])
        if early is None and done >= 0.1:
            early = now
    late = memory(), open_files()
    assert early is not None
    row: dict[str, Any] = {"work": what, "minutes": (time.perf_counter() - start) / 60}
    for name, (megabytes, files) in (("early", early), ("late", late), ("most", most)):
        row |= {f"{name}_mb": round(megabytes, 1), f"{name}_files": files}
    print(row, flush=True)
    return row


def training(minutes: float, folder: Path) -> Iterator[float]:
    """Train a language model into a folder, resumed each time that its epochs are over."""
    draw = random.Random(0)
    vocabulary = [f"word{number}" for number in range(2000)]
    for split, lines in (("train", 4000), ("valid", 400)):
        (folder / f"{split}.txt").write_text("\n".join(" ".join(draw.choices(vocabulary, k=20)) for _ in range(lines)))
    recipe = make_recipe("small", hidden_size=64, embedding_size=64, epochs=10**6, schedule="constant")
    end = time.perf_counter() + 60 * minutes
    while (left := end - time.perf_counter()) > 0:
        # In pieces of a twentieth, so that stopping and resuming is a part of it.
        piece = min(left, 3 * minutes) / 60
        train(recipe, folder, folder / "run", resume=True, minutes=max(piece, 1e-3), quiet=True)
        yield min(1.0, 1 - (end - time.perf_counter()) / 60 / minutes)


def predictions(count: int) -> Iterator[float]:
    """Predict with a classifier, a segmenter and a detector in turn."""
    draw = random.Random(0)
    pictures = [
        Image.effect_noise((draw.randint(40, 300), draw.randint(40, 300)), 90).convert("RGB") for _ in range(20)
    ]
    predictors = []
    for name in ("espnetv2_050", "espnetv2_050_seg_voc", "espnetv2_050_ssd_voc"):
        options: dict[str, Any] = {"size": (96, 96)} if "ssd" in name else {}
        model = create_model(name, num_classes=6, **options)
        predictors.append(Predictor(model, resized(model.preprocessing, (96, 96)), numbered(6)))
    for number in range(count):
        predictors[number % 3](pictures[number % 20])
        yield (number + 1) / count


@torch.inference_mode()
def reading(count: int) -> Iterator[float]:
    """Read vectors one by one, with the state carried along, which must stay finite."""
    torch.manual_seed(0)
    layer, state = ERU(64, 64, num_layers=2).eval(), None
    for number in range(count):
        output, state = layer(torch.randn(1, 1, 64), state)
        if not output.isfinite().all():
            raise SystemExit(f"the output is not finite after {number + 1} vectors")
        yield (number + 1) / count


def main() -> None:
    """Do the work, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--predictions", type=int, default=10_000)
    parser.add_argument("--words", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ERU_CACHE_DIR"] = f"{folder}/cache"
        rows = [
            watched(f"{args.words:,} vectors read one by one", reading(args.words)),
            watched(f"{args.predictions:,} predictions", predictions(args.predictions)),
            watched(f"{args.minutes:g} minutes of training", training(args.minutes, Path(folder))),
        ]
    write_result("soak", {"rows": rows})


if __name__ == "__main__":
    main()
