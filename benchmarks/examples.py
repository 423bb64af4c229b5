"""The examples as a user runs them, with both cells where they have two: their scores, and the gallery's pictures.

    python benchmarks/examples.py
    python benchmarks/examples.py --weights espnetv2_s_0.5_pascal_256x256.pth

`--weights` is the authors' file of the segmenter of VOC at 256x256, from which the segmenter is then fine-tuned too;
a user names it espnetv2_050_seg_voc.256x256. Takes about half an hour on one processor.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from environment import write_result

ROOT = Path(__file__).parents[1]
WITH_A_CELL = ("forecast", "tag", "translate", "characters")


def row(example: str, *options: str, picture: bool = True) -> dict[str, Any]:
    """What an example prints; its picture goes to the gallery."""
    drawn = ["--picture", str(ROOT / "docs" / "gallery" / f"{example}.png")] if picture else []
    command = [sys.executable, str(ROOT / "examples" / f"{example}.py"), *options, *drawn]
    # Its exit code is 1 where it falls short of its goal, which the row says.
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    found = {name: value for name, value in json.loads(done.stdout).items() if name not in ("picture", "seconds")}
    print(found, flush=True)
    return found


def main() -> None:
    """Run all, and write benchmarks/results/examples.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="the authors' segmenter of VOC at 256x256")
    weights = parser.parse_args().weights
    rows = [row(name, "--cell", cell, picture=cell == "eru") for name in WITH_A_CELL for cell in ("eru", "lstm")]
    rows += [row("features"), row("finetune_segmenter", picture=weights is None)]
    if weights is not None:
        rows.append({**row("finetune_segmenter", "--weights", str(weights)), "weights": weights.name})
    write_result("examples", {"rows": rows})


if __name__ == "__main__":
    main()
