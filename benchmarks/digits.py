"""Handwritten digits, real scans of 8x8 pixels that scikit-learn carries: accuracy, and what two parts of EESP give.

    python benchmarks/digits.py [--seeds 1,2,3] [--epochs 40]

Table 6 of the paper takes two parts out of the network, the hierarchical fusion and the shortcuts to the image; here
each is taken out of the narrowest one, on the digits. A fifth of them, every fifth one, is the test set. The accuracy
is that of the last epoch, so that nothing is chosen on the test set. Run folders lie below --out, and are resumed.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
from environment import write_result
from PIL import Image
from sklearn.datasets import load_digits

from vision.training.loop import train
from vision.training.recipes import make_recipe
from vision.training.run import open_run

FORMS = {"both": {}, "no fusion": {"fusion": False}, "no shortcuts": {"shortcut": False}}
SIZE = 64


def write_digits(folder: Path) -> None:
    """The digits as pictures in folders, as ImageNet lies on the disk."""
    digits = load_digits()
    for number, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / ("train" if number % 5 else "val") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((values * (255 / 16)).round().astype(np.uint8))
        picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(place / f"{number:04d}.png")


def main() -> None:
    """Train every form with every seed, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    args = parser.parse_args()
    data = args.out / "pictures"
    if not data.exists():
        write_digits(data)
    rows = []
    for name, options in FORMS.items():
        accuracies = []
        for seed in map(int, args.seeds.split(",")):
            recipe = make_recipe("shapes", "classify", epochs=args.epochs, seed=seed, sizes=((SIZE, SIZE),), flip=0.0)
            run = args.out / f"{name.replace(' ', '-')}-{seed}"
            train(recipe, "espnetv2_050", "imagenet", data, run, resume=True, **options)
            accuracies.append(open_run(run).folder.epochs()[-1]["top1"])
        mean = statistics.mean(accuracies)
        print(f"{name:14s}{100 * mean:7.2f} % of {len(accuracies)} seeds: {accuracies}", flush=True)
        row = {"form": name, "seeds": args.seeds, "epochs": args.epochs, "top1": accuracies, "mean": mean}
        rows.append({**row, "least": min(accuracies), "most": max(accuracies)})
    write_result("digits", {"rows": rows}, "cpu")


if __name__ == "__main__":
    main()
