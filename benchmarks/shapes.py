"""What a machine without a GPU learns in minutes: each vision task trained on drawn shapes, and how good it becomes.

    python benchmarks/shapes.py [--tasks classify,segment] [--out runs/shapes]

Every task trains by the recipe ``shapes`` with the pictures that `python cli.py vision-shapes` draws. Segmenter and
detector start from the backbone of the classifier that was trained before, as in the paper; the others from nothing.
The time is that of the whole training, its validations included. The run folders must be new.
"""

import argparse
import time
from pathlib import Path

from environment import RESULTS, write_result

from eru.training import read_json, seed_everything
from vision.data import Layout, open_data, write_shapes
from vision.training.evaluation import QUALITY, measure
from vision.training.loop import train
from vision.training.recipes import make_recipe
from vision.training.run import VisionRun, open_run

CASES: dict[str, tuple[Layout, str]] = {
    "classify": ("imagenet", "espnetv2_050"),
    "multilabel": ("voc", "espnetv2_050"),
    "segment": ("voc", "espnetv2_050_seg_voc"),
    "detect": ("voc", "espnetv2_050_ssd_voc"),
}


def untrained_quality(run: VisionRun, data: Path) -> float:
    """How good the run's model is with the random weights of its seed."""
    seed_everything(run.recipe.seed)
    reader = open_data(run.folder.config["data"]["layout"], run.task, data, "val")
    model = run.build_model()
    measured = measure(model, reader, run.task, run.preprocessing, batch_size=run.recipe.batch_size)
    return measured.numbers[QUALITY[run.task]]


def main() -> None:
    """Train every task, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(CASES), help="between commas; the rows of others stay")
    parser.add_argument("--out", type=Path, default=Path("runs/shapes"))
    args = parser.parse_args()
    result = RESULTS / "shapes.json"
    rows = {row["task"]: row for row in read_json(result)["rows"]} if result.exists() else {}
    for task in args.tasks.split(","):
        layout, name = CASES[task]
        data = args.out / layout
        if not data.exists():
            write_shapes(layout, data)
        starts = {"segment", "detect"}  # as in the paper
        backbone = args.out / "classify" / "model.safetensors" if task in starts else None
        start = time.perf_counter()
        trained = train(make_recipe("shapes", task), name, layout, data, args.out / task, weights_backbone=backbone)
        minutes = (time.perf_counter() - start) / 60
        run = open_run(args.out / task)
        rows[task] = {
            "task": task,
            "layout": layout,
            "model": name,
            "parameters": trained.parameters,
            "pictures": [trained.train_pictures, trained.valid_pictures],
            "from": "the classifier's backbone" if backbone else "nothing",
            "epochs": trained.epochs,
            "minutes": minutes,
            "quality": trained.quality,
            "untrained": untrained_quality(run, data),
            "trained": trained.best,
            "last_epoch": run.folder.epochs()[-1],
        }
        print(rows[task], flush=True)
        write_result("shapes", {"rows": [rows[task] for task in CASES if task in rows]})


if __name__ == "__main__":
    main()
