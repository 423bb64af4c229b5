"""Files of every kind, damaged at random, given to the commands that read them: an answer, or one line of error.

    python benchmarks/fuzz.py [--files 10000]

A file is damaged byte by byte (bits flipped, parts cut out, doubled, overwritten, put in from other files) and, where
it is JSON or a list of lines, value by value. A command must then end with exit code 0, or with 2 and one line that
starts with ``Error:``, within ten seconds, and leave no half-written file. Where it does anything else, the file is
kept below --out.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner
from environment import write_result
from PIL import Image

from eru_cli import main as command_line
from vision import create_model, save_weights
from vision.data import Layout, write_shapes

LIMIT = 10  # seconds
ODD: list[Any] = [None, True, -1, 0, 1e308, 10**30, float("nan"), "", "x" * 5000, "../x", "\0", "\x1b[31m"]
ODD += [[], {}, [[]], {"a": {}}]
BYTES = [b"\0", b"\xff\xfe", b"\r", b"\xef\xbb\xbf", b"[" * 9999, b"\x85", b"9" * 400]
LINES = [b"", b"x y", b"../x", b"\t", b"-1"]

LM_TRAIN = (
    "lm-train --data=corpus --device=cpu --max-steps=2 --set=hidden_size=8 --set=embedding_size=8 --set=num_layers=1 "
    "--set=batch_size=2 --set=bptt=8"
)
VISION_TRAIN = (
    "vision-train --recipe=shapes --set=batch_size=4 --set=sizes=32x32 --device=cpu --max-steps=1 --model=espnetv2_050"
)
CLASSIFY = f"{VISION_TRAIN} --task=classify --layout=imagenet --data=imagenet"
PREDICT = "predict imagenet/val/star --model="
COCO = f"{VISION_TRAIN}_ssd_coco --task=detect --layout=coco --data=coco --out=new"
VOC = f"{VISION_TRAIN}_ssd_voc --task=detect --layout=voc --data=voc --out=new"
MASKS = f"{VISION_TRAIN}_seg_voc --task=segment --layout=voc --data=voc --out=new"
CITY = f"{VISION_TRAIN}_seg_city --task=segment --layout=cityscapes --data=cityscapes --out=new"

# Files, of which one is damaged, and a command that reads it.
CASES = [
    ("corpus/*.txt", f"{LM_TRAIN} --out=new"),
    ("corpus/*.txt", "lm-eval words --data=corpus"),
    ("words/config.json", "lm-eval words"),
    ("words/config.json", "summary words"),
    ("words/config.json", f"{LM_TRAIN} --out=words --resume"),
    ("words/model.safetensors", "lm-eval words"),
    ("words/tokenizer/tokenizer.json", "lm-eval words"),
    ("words/state.pt", f"{LM_TRAIN} --out=words --resume"),
    ("words/metrics.jsonl", f"{LM_TRAIN} --out=words --resume"),
    ("pieces/tokenizer/*", "lm-generate pieces --tokens=3"),
    ("cache/tokens/*/*", "lm-eval words"),
    ("pictures/*.png", "predict pictures --model=seen"),
    ("pictures/*", "predict pictures --model=seen"),
    ("weights.pth", f"{PREDICT}espnetv2_050 --weights=weights.pth"),
    ("weights.safetensors", f"{PREDICT}espnetv2_050 --weights=weights.safetensors"),
    ("labels.txt", f"{PREDICT}espnetv2_050 --weights=weights.pth --labels=labels.txt"),
    ("seen/config.json", f"{PREDICT}seen"),
    ("seen/model.safetensors", f"{PREDICT}seen"),
    ("seen/config.json", f"{CLASSIFY} --out=seen --resume"),
    ("seen/state.pt", f"{CLASSIFY} --out=seen --resume"),
    ("imagenet/train/*/*", f"{CLASSIFY} --out=new"),
    ("coco/annotations/*", COCO),
    ("coco/train2017/*", COCO),
    ("voc/Annotations/*", VOC),
    ("voc/ImageSets/Main/*", VOC),
    ("voc/labels.txt", VOC),
    ("voc/ImageSets/Segmentation/*", MASKS),
    ("voc/SegmentationClass/*", MASKS),
    ("cityscapes/gtFine/train/*/*", CITY),
]


def call(command: str) -> tuple[int, str]:
    """The exit code of a command and what it says on stderr; whatever it raises comes out."""
    result = CliRunner().invoke(command_line, command.split(), catch_exceptions=False)
    return result.exit_code, result.stderr


def make_places() -> None:
    """Whole files of every kind, in the current folder."""
    draw = random.Random(0)
    Path("corpus").mkdir()
    for split, lines in (("train", 40), ("valid", 8), ("test", 8)):
        words = (draw.choices(["the", "cat", "café", "sat", "on", "mat"], k=6) for _ in range(lines))
        Path("corpus", f"{split}.txt").write_text("\n".join(map(" ".join, words)), encoding="utf-8")
    layouts: tuple[Layout, ...] = ("imagenet", "coco", "voc", "cityscapes")
    for layout in layouts:
        write_shapes(layout, layout, train=6, val=6, size=(32, 32))
    Path("pictures").mkdir()
    picture = Image.open(next(Path("imagenet/val/star").iterdir())).convert("RGB")
    for kind in ("png", "jpg", "gif", "bmp", "tiff", "webp"):
        picture.save(f"pictures/picture.{kind}")
    model = create_model("espnetv2_050", num_classes=6)
    torch.save(model.state_dict(), "weights.pth")
    save_weights(model, "weights.safetensors")
    Path("labels.txt").write_text("\n".join("abcdef"), encoding="utf-8")
    pieces = "--set=tokenizer=sentencepiece --set=vocab_size=280"
    for command in (f"{LM_TRAIN} --out=words", f"{LM_TRAIN} --out=pieces {pieces}", f"{CLASSIFY} --out=seen"):
        code, said = call(command)
        if code:
            raise SystemExit(f"{command} fails on whole files: {said}")
    call("lm-eval words")  # which fills the cache


def damaged(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """The content with one to four faults in it."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(len(changed) + 1)
        end = min(len(changed), start + draw.choice([1, 1, 2, 8, 64, 4096]))
        other = draw.choice(others)
        kind = draw.randrange(8)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[start:end]
        elif kind == 2:
            changed[start:start] = changed[start:end] * draw.choice([1, 50])
        elif kind == 3:
            changed[start:end] = draw.randbytes(end - start)
        elif kind == 4:
            place = draw.randrange(len(other) + 1)
            changed[start:end] = other[place : place + 200]
        elif kind == 5:
            changed[start:end] = draw.choice(BYTES)
        elif kind == 6:
            del changed[start:]
        else:
            changed = bytearray(_with_odd_value(bytes(changed), draw))
    return bytes(changed)


def _with_odd_value(content: bytes, draw: random.Random) -> bytes:
    """JSON, or lines, with one of the values another one."""
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        lines = content.split(b"\n")
        lines[draw.randrange(len(lines))] = draw.choice([*LINES, draw.choice(lines) * 2])
        return b"\n".join(lines)
    value = told
    while isinstance(value, dict | list) and value:
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if draw.random() < 0.4 or not (isinstance(value[key], dict | list) and value[key]):
            if draw.random() < 0.2:
                del value[key]
            else:
                value[key] = draw.choice(ODD)
            break
        value = value[key]
    if isinstance(told, dict):
        told.pop("sha256", None)  # as someone would who changes the file on purpose
    return json.dumps(told).encode()


def fault_of(command: str) -> tuple[str, str]:
    """What a command came to: "answered", "refused", or a fault and what is known of it."""
    try:
        signal.alarm(LIMIT)
        code, said = call(command)
    except BaseException:
        return "fault", traceback.format_exc()
    finally:
        signal.alarm(0)
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    if any(Path().rglob(".*.tmp")):
        return "fault", f"a half-written file is left\n{said}"
    if code == 0 and not errors:
        return "answered", ""
    return ("refused", "") if code == 2 and errors else ("fault", f"exit code {code}\n{said}")


def main() -> None:
    """Damage files, and write the counts; exit code 1 where a command did what it must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--dry", action="store_true", help="write no result file")
    args = parser.parse_args()
    out, draw = args.out.resolve(), random.Random(args.seed)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_slow)
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name, inside(Path(name) / "whole"):
        make_places()
        for number in range(args.files):
            pattern, command = CASES[number % len(CASES)]
            with inside(Path(name) / "damaged", copied_from=Path(name) / "whole"):
                files = sorted(path for path in Path().glob(pattern) if path.is_file())
                file = draw.choice(files)
                content = damaged(file.read_bytes(), [other.read_bytes() for other in files], draw)
                file.write_bytes(content)
                if file.name == "state.pt":
                    file.with_name("state.previous.pt").unlink(missing_ok=True)
                kind, told = fault_of(command)
            counts.setdefault(f"{pattern}: {command.split()[0]}", Counter())[kind] += 1
            if kind == "fault":
                place = out / f"{args.seed}-{number}"
                place.mkdir(parents=True, exist_ok=True)
                (place / file.name).write_bytes(content)
                (place / "what.txt").write_text(f"{file} given to {command}\n{told}", encoding="utf-8")
                print(f"{place}: {file} given to {command}: {told.strip().splitlines()[-1][:200]}", flush=True)
    kinds = ("answered", "refused", "fault")
    rows = [{"case": case, **{kind: found[kind] for kind in kinds}} for case, found in counts.items()]
    total = sum(map(Counter.total, counts.values()))
    faults = sum(found["fault"] for found in counts.values())
    print({"files": total, "faults": faults})
    if not args.dry:
        write_result("fuzz", {"files": total, "faults": faults, "rows": rows})
    sys.exit(bool(faults))


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"no answer after {LIMIT} seconds")


@contextmanager
def inside(folder: Path, copied_from: Path | None = None) -> Iterator[None]:
    """A fresh folder, empty or a copy, in which the block runs; its cache is there too."""
    if copied_from is None:
        folder.mkdir()
    else:
        shutil.copytree(copied_from, folder)
    before = Path.cwd()
    os.chdir(folder)
    os.environ["ERU_CACHE_DIR"] = str(folder / "cache")
    try:
        yield
    finally:
        os.chdir(before)
        if copied_from is not None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
