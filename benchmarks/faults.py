"""Trainings that faults end at random moments and that are resumed: each must end as one that never stopped.

    python benchmarks/faults.py [--faults 700]

Half of the faults, or `--vision` of them, hit a vision model, the others a language model. Most are SIGKILL, which no
process can answer. Some of the killed trainings find the newest checkpoint cut off at a random place when they are
resumed, as where a power cut lost the end of a write. Others meet a limit on the size of files while they write, as of
a full disk: they must say so and name the file. In the end the file of the weights and every tensor and number of the
checkpoint, but for the seconds, must be those of a training that nothing stopped, bit by bit, and no half-written file
may be left. No curves are drawn, which would take most of the time and of the faults.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from environment import write_result

from eru import kernels
from eru.lm.loop import train as train_language_model
from eru.lm.recipes import make_recipe as language_recipe
from eru.training import RunFolder
from vision.data import write_shapes
from vision.training.loop import train as train_vision_model
from vision.training.recipes import make_recipe as vision_recipe

Train = Callable[..., Any]
WORDS = ["a", "big", "red", "cat", "dog", "sat", "on", "the", "mat"]
CUT, FULL = 0.2, 0.2  # the shares of the faults that are a cut checkpoint or a full disk too
_TOLD = 3  # the exit code of a training that told which file it could not write


def language_model(folder: Path) -> Train:
    """The training of a language model whose text is written into a folder."""
    draw = random.Random(0)
    for split, lines in (("train", 30), ("valid", 6)):
        text = "\n".join(" ".join(draw.choices(WORDS, k=6)) for _ in range(lines))
        (folder / f"{split}.txt").write_text(text)
    sizes = {"embedding_size": 8, "hidden_size": 8, "batch_size": 2, "bptt": 9, "weight_dropout": 0.2}
    course = {"epochs": 2, "averaging": True, "nonmonotone_interval": 0, "checkpoint_every": 4, "log_every": 3}
    recipe = language_recipe("small", **sizes, **course)
    return partial(train_language_model, recipe, folder, quiet=True, resume=True)


def vision_model(folder: Path) -> Train:
    """The training of a classifier whose pictures are drawn into a folder."""
    pictures = folder / "pictures"
    write_shapes("imagenet", pictures, train=12, val=6, size=(32, 32))
    course = {"epochs": 2, "batch_size": 4, "ema": 0.9, "checkpoint_every": 2, "log_every": 2}
    recipe = vision_recipe("shapes", "classify", sizes=((32, 32),), **course)
    return partial(train_vision_model, recipe, "espnetv2_050", "imagenet", pictures, quiet=True, resume=True)


def started(work: Callable[[], Any], most_bytes: int | None = None) -> int:
    """The number of a new process that does the work, in which no file may grow beyond a size."""
    if process := os.fork():
        return process
    try:
        if most_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails, as it does on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        work()
    except OSError as error:
        told = most_bytes is not None and error.filename is not None
        if not told:
            traceback.print_exc()
        os._exit(_TOLD if told else 1)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def what_it_left(run: Path) -> str:
    """What a fault left behind, in words."""
    if any(run.parent.rglob(".*.tmp")):
        return "a file half written"
    if not (run / "config.json").exists():
        return "no run yet"
    return "a checkpoint" if (run / "state.pt").exists() else "no checkpoint yet"


def cut_off(run: Path, draw: random.Random) -> bool:
    """Cut the newer of two checkpoints off, sometimes, and tell whether it was done."""
    folder = RunFolder(run, {})
    if draw.random() > CUT or not (folder.state_path.exists() and folder.previous_path.exists()):
        return False
    os.truncate(folder.state_path, draw.randrange(folder.state_path.stat().st_size))
    return True


def outcome_of(run: Path) -> tuple[bytes, dict[str, Any]]:
    """What must be equal of two runs."""
    folder = RunFolder.open(run)
    state = folder.load_state() or {}
    del state["position"]["seconds"]
    return folder.weights_path.read_bytes(), state


def equal(found: Any, expected: Any) -> bool:
    """Whether two values are equal, bit by bit, through dicts, lists and tuples."""
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(equal(found[name], expected[name]) for name in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(equal, found, expected))
    return found == expected


def struck(make: Callable[[Path], Train], faults: int, seed: int) -> dict[str, Any]:
    """Strike trainings with so many faults, and compare what they come to."""
    draw, kinds, left, runs, unequal = random.Random(seed), Counter[str](), Counter[str](), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = make(folder)
        os.environ["ERU_CACHE_DIR"] = str(folder / "cache")
        train(out=folder / "first" / "run")  # imports all that a training does, once and not in each process
        start = time.perf_counter()
        train(out=folder / "whole" / "run")
        duration, expected = time.perf_counter() - start, outcome_of(folder / "whole" / "run")
        largest = max(file.stat().st_size for file in (folder / "whole" / "run").iterdir())
        while left.total() < faults:
            work = folder / str(runs)
            os.environ["ERU_CACHE_DIR"] = str(work / "cache")  # so that each run encodes its text anew
            status = 1
            while status:
                is_over, is_full = left.total() >= faults, draw.random() < FULL
                most_bytes = draw.randrange(2 * largest) if is_full and not is_over else None
                process = started(lambda: train(out=work / "run"), most_bytes)  # noqa: B023
                if not (is_over or is_full):
                    time.sleep(draw.uniform(0, duration))
                    os.kill(process, signal.SIGKILL)
                status = os.waitpid(process, 0)[1]
                if status == signal.SIGKILL:
                    kinds["killed"] += 1
                    kinds["its checkpoint cut off too"] += cut_off(work / "run", draw)
                elif os.waitstatus_to_exitcode(status) == _TOLD:
                    kinds["full disk"] += 1
                elif status:
                    raise SystemExit(f"after {left.total()} faults a training failed; see above")
                left[what_it_left(work / "run")] += bool(status)
            unequal += not equal(outcome_of(work / "run"), expected) or any((work / "run").rglob(".*.tmp"))
            runs += 1
            shutil.rmtree(work)
    return {"faults": left.total(), "kinds": dict(kinds), "left": dict(left), "runs": runs, "unequal": unequal}


def main() -> None:
    """Strike trainings of both kinds, and write the table; exit code 1 where one came to something else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=700)
    parser.add_argument("--vision", type=float, default=0.5, metavar="SHARE")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="write no result file")
    args = parser.parse_args()
    torch.set_num_threads(1)  # A process that has threads cannot be forked safely.
    kernels.refusal()  # compiles and loads them, here and not in each process
    warnings.filterwarnings("ignore", message=".*is taken in its place")
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # as where it is not installed
    of_vision = round(args.vision * args.faults)
    rows = []
    for kind, make, faults in (
        ("language model", language_model, args.faults - of_vision),
        ("vision model", vision_model, of_vision),
    ):
        row = {"training": kind, **struck(make, faults, args.seed)}
        print(row, flush=True)
        rows.append(row)
    if not args.dry:
        write_result("faults", {"rows": rows})
    sys.exit(any(row["unequal"] for row in rows))


if __name__ == "__main__":
    main()
