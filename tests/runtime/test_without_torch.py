import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import eru_runtime

PACKAGE = Path(eru_runtime.__file__).parent
NEEDED = {"numpy", "onnxruntime"}

SCRIPT = """
import builtins, json, sys
import numpy as np

usual = builtins.__import__
def guarded(name, *others, **more):
    if name.partition(".")[0] in ("torch", "eru", "vision", "PIL", "sentencepiece"):
        raise ImportError(f"{name} is not installed here")
    return usual(name, *others, **more)
builtins.__import__ = guarded

import eru_runtime
text, classifier, segmenter, detector = (eru_runtime.load(folder) for folder in sys.argv[1:5])
picture = (np.arange(30 * 40 * 3) % 251).astype(np.uint8).reshape(30, 40, 3)
print(json.dumps({
    "text": text.generate("the cat", 20, temperature=0),
    "labels": classifier(picture).labels,
    "shares": segmenter(picture).shares,
    "objects": detector(picture).labels,
}))
try:
    classifier("picture.png")
except ValueError as error:
    print(error)
"""


def test_it_runs_without_torch_and_without_pillow(toy_text, seeing, finding, write_text_folder, write_vision_folder):
    labels, size, weight = ["background", "a", "b"], (8, 8), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    box = ([[0, 0, 1, 1]], [2], [0.9])
    folders = [
        write_text_folder(toy_text(8).model()),
        *(
            write_vision_folder(kind, seeing(kind, weight, [0, 0, 0], size), labels, size)
            for kind in ("classification", "segmentation")
        ),
        write_vision_folder("detection", finding(*box, size), labels, size, nms=True),
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    assert done.returncode == 0, done.stderr
    answers, refusal = done.stdout.splitlines()
    found = json.loads(answers)
    assert found["text"] == eru_runtime.load(folders[0]).generate("the cat", 20, temperature=0)
    assert sorted(found["labels"]) == sorted(labels)
    assert sum(found["shares"].values()) == 100
    assert found["objects"] == ["b"]
    assert refusal.startswith("picture.png: files need Pillow")


def test_no_module_imports_more_than_it_may():
    modules = sorted(PACKAGE.glob("*.py"))
    assert len(modules) > 10
    assert list(PACKAGE.rglob("*/*.py")) == []
    for path in modules:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names.add(node.module)
        foreign = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - NEEDED - {"eru_runtime"}
        assert foreign <= ({"PIL"} if path.name == "pictures.py" else set()), path
