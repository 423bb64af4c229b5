"""Readers of files, fed by a fuzzer that sees which of their lines are reached: an answer, or ValueError.

    pip install atheris && python benchmarks/fuzz_coverage.py [--runs 100000]

benchmarks/fuzz.py damages whole files and asks whole commands; here the readers are asked directly, thousands of times
a second, and what reaches a new line of them is varied further. Each has a process of its own, which starts from a
whole file. An input that a reader answers with anything but a value or a ValueError is kept below --out.
"""

import argparse
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["eru", "vision", "eru_runtime"]):
    import eru_runtime.folder
    import eru_runtime.tokenizer
    from eru.lm.recipes import make_recipe
    from eru.lm.recipes import read_recipe as read_language_recipe
    from eru.lm.text.corpus import load_corpus
    from eru.lm.text.tokenizer import load_tokenizer
    from eru.sealed import load_sealed
    from eru.storage import read_json
    from vision.data.coco_json import read_instances
    from vision.data.voc_objects import read_objects
    from vision.datasets import read_labels
    from vision.pictures import open_picture
    from vision.pretrained import load_weights
    from vision.training.recipes import make_recipe as make_vision_recipe
    from vision.training.recipes import read_recipe as read_vision_recipe

import torch
from environment import write_result
from PIL import Image
from safetensors.torch import save as pack

VOC = b"""<annotation><size><width>9</width><height>9</height></size><object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object></annotation>"""
COCO = {
    "categories": [{"id": 1, "name": "cat"}],
    "images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 3], "iscrowd": 0}],
}
EXPORT = {"format": "onnx", "quantize": "none", "kind": "language-model", "file": "model.onnx", "sha256": ""}
LINEAR = torch.nn.Linear(2, 1)
# What the fuzzer puts in whole, besides bytes.
TOKENS = ["null", "true", "-1", "1e999", "[]", "{}", '""', '"a"', "NaN", "<name>", "</name>", "99999999999999"]
WORDS = {"kind": "word", "types": ["<unk>", "<eos>", "a"], "unknown": 0, "eos": 1}


def scratch(name: str, content: bytes) -> Path:
    """A file of that content, in this process' own folder."""
    path = Path.cwd() / name
    path.write_bytes(content)
    return path


def pickled(content: Any) -> bytes:
    """What torch writes of a value."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def picture() -> bytes:
    """A small picture."""
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (200, 10, 10)).save(file, format="png")
    return file.getvalue()


def text(content: bytes) -> Any:
    """The corpus whose text to train on is that."""
    for name in ("valid.txt", "test.txt"):
        scratch(name, b"a cat\n")
    return load_corpus(scratch("train.txt", content).parent)


def of_folder(read: Callable[[Path], Any], name: str) -> Callable[[bytes], Any]:
    """What reads a folder that holds one file."""
    return lambda content: read(scratch(name, content).parent)


def of_json(read: Callable[[Any], Any]) -> Callable[[bytes], Any]:
    """What reads the value in a file of JSON."""
    return lambda content: read(read_json(scratch("a.json", content)))


# A whole file to start from, and what reads it.
READERS: dict[str, tuple[Callable[[], bytes], Callable[[bytes], Any]]] = {
    "a text": (lambda: b"the cat sat\n", text),
    "a tokenizer": (lambda: json.dumps(WORDS).encode(), of_folder(load_tokenizer, "tokenizer.json")),
    "a recipe of a language model": (
        lambda: json.dumps(make_recipe("small").__dict__).encode(),
        of_json(read_language_recipe),
    ),
    "a recipe of a vision model": (
        lambda: json.dumps(make_vision_recipe("shapes", "classify").__dict__, default=str).encode(),
        of_json(read_vision_recipe),
    ),
    "a checkpoint": (
        lambda: pickled({"step": 1, "weights": {"a": [1.0, 2.0]}}),
        lambda content: load_sealed(scratch("state.pt", content)),
    ),
    "weights": (
        lambda: pickled(LINEAR.state_dict()),
        lambda content: load_weights(LINEAR, scratch("a.pth", content)),
    ),
    "weights of safetensors": (
        lambda: pack(LINEAR.state_dict()),
        lambda content: load_weights(LINEAR, scratch("a.safetensors", content)),
    ),
    "names of classes": (lambda: b"cat\ndog\n", lambda content: read_labels(scratch("labels.txt", content))),
    "annotations of VOC": (lambda: VOC, lambda content: read_objects(scratch("a.xml", content), ["cat"])),
    "annotations of COCO": (
        lambda: json.dumps(COCO).encode(),
        of_json(lambda told: read_instances(told, Path("a.json"))),
    ),
    "a picture": (picture, lambda content: open_picture(scratch("a.png", content))),
    "an export": (lambda: json.dumps(EXPORT).encode(), of_folder(eru_runtime.folder.Folder, "export.json")),
    "an exported tokenizer": (
        lambda: json.dumps(WORDS).encode(),
        lambda content: read_exported(scratch("tokenizer.json", content).parent),
    ),
}


def read_exported(folder: Path) -> Any:
    """The tokenizer in a folder whose export.json is whole."""
    scratch("export.json", json.dumps({**EXPORT, "tokenizer": "tokenizer.json"}).encode())
    return eru_runtime.tokenizer.read_tokenizer(eru_runtime.folder.Folder(folder))


def fuzz(reader: str, options: list[str]) -> None:
    """Let this process feed one reader; it ends here."""
    start, read = READERS[reader]
    Path("start").mkdir()
    Path("start", "whole").write_bytes(start())
    Path("tokens").write_text("".join(f"{json.dumps(token)}\n" for token in TOKENS))
    read(start())  # A whole file is answered.

    def once(content: bytes) -> None:
        with contextlib.suppress(ValueError):
            read(content)

    warnings.simplefilter("ignore")
    atheris.Setup([sys.argv[0], *options, "-dict=tokens", "start"], once)
    atheris.Fuzz()


def row(reader: str, runs: int, out: Path) -> dict[str, Any]:
    """What came of feeding a reader so often, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"-runs={runs}", "-seed=1", "-max_len=4096", "-timeout=20", f"-artifact_prefix={out.resolve()}/"]
        command = [sys.executable, str(Path(__file__).resolve()), "--reader", reader, *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    ends = re.search(r"#(\d+)\s+DONE\s+cov: (\d+)", done.stderr)
    if ends is None:
        print(done.stderr[-4000:], file=sys.stderr)
    found = {"reader": reader, "fed": int(ends[1]) if ends else 0, "reached": int(ends[2]) if ends else 0}
    return {**found, "faults": int(done.returncode != 0)}


def main() -> None:
    """Feed all readers, and write the table; exit code 1 where one had a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz-coverage"))
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    args, options = parser.parse_known_args()
    if args.reader:
        fuzz(args.reader, options)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for reader in READERS:
        rows.append(row(reader, args.runs, args.out))
        print(rows[-1], flush=True)
    write_result("fuzz_coverage", {"rows": rows})
    sys.exit(any(one["faults"] for one in rows))


if __name__ == "__main__":
    main()
