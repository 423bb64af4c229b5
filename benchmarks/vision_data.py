"""Pictures per second of reading and preparing them against training on them, of the small shapes.

    python benchmarks/vision_data.py [--workers 0,1]

Loading is no bottleneck where it is faster than training. Both are measured in turn, in one process without other work
beside it; a row holds the medians of the rounds.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from environment import write_result

from eru.training import Ranks, make_optimizer, update
from vision.data import open_data, write_shapes
from vision.training.loading import Batch, Prepared, epoch_order, load
from vision.training.loop import make_model
from vision.training.objectives import Varied, loss_of
from vision.training.recipes import make_recipe

CASES = {
    "classify": ("imagenet", "espnetv2_050"),
    "multilabel": ("coco", "espnetv2_050"),
    "segment": ("voc", "espnetv2_050_seg_voc"),
    "detect": ("voc", "espnetv2_050_ssd_voc"),
}
PICTURES = 160


def main() -> None:
    """Measure every task, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="0,1")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for task, (layout, name) in CASES.items():
            root = Path(folder) / layout
            if not root.exists():
                write_shapes(layout, root, train=PICTURES, val=1)
            recipe = make_recipe("shapes", task, epochs=1)
            reader = open_data(layout, task, root, "train")
            model = make_model(name, recipe, reader, None, None, {})
            optimizer = make_optimizer("adamw", model.parameters(), learning_rate=1e-4, weight_decay=0.0)
            ranks, rng = Ranks.from_environment("cpu"), np.random.default_rng(0)
            order = epoch_order(len(reader), recipe.batch_size, seed=1, epoch=0)

            def step(batch: Batch) -> None:
                loss = loss_of(model.train(), batch[0], batch[1], recipe, rng)  # noqa: B023
                update(optimizer, [loss], learning_rate=1e-4, clip=10.0, ranks=ranks)  # noqa: B023

            def batches(workers: int) -> list[Batch]:
                prepared = Prepared(reader, Varied(recipe, recipe.sizes[0]), seed=1, epoch=0, broken="refuse")  # noqa: B023
                return list(load(prepared, order, workers))  # noqa: B023

            ready = batches(0)
            step(ready[0])  # the first step allocates and compiles
            training, loading = [], {int(workers): [] for workers in args.workers.split(",")}
            for _ in range(args.rounds):
                start = time.perf_counter()
                for batch in ready:
                    step(batch)
                training.append(order.size / (time.perf_counter() - start))
                for workers, speeds in loading.items():
                    start = time.perf_counter()
                    batches(workers)
                    speeds.append(order.size / (time.perf_counter() - start))
            row = {"task": task, "model": name, "size": recipe.sizes[0], "training": statistics.median(training)}
            row |= {f"loading_{workers}": statistics.median(speeds) for workers, speeds in loading.items()}
            print(row, flush=True)
            rows.append(row)
    write_result("vision_data", {"unit": "pictures per second", "rows": rows}, str(torch.device("cpu")))


if __name__ == "__main__":
    main()
