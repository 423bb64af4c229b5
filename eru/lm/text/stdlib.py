"""The default corpus: the English documentation inside the standard library of the running Python.

It is real text that is on every machine without a download. Modules are held out whole: everything below one
top-level module belongs to one split, so validation and test measure prose about modules never seen in training.
"""

import ast
import hashlib
import platform
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from eru.lm.text.prose import prose_lines
from eru.storage import cache_dir, new_folder
from eru.training import counted

# Raise it whenever this file or prose.py makes another text, so that no older cached corpus is read.
_BUILD = 2
_HELD_OUT_SHARE = 0.05
_SKIPPED_MODULES = frozenset({"idlelib", "encodings"})  # An application, and generated tables.
_SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test"})
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def stdlib_files() -> dict[str, Path]:
    """The files of the splits ``train``, ``valid`` and ``test`` in the cache folder, built once.

    Raises:
        ValueError: This Python comes without its library's source text, or the cache is not writable.
    """
    folder = cache_dir() / f"stdlib-{platform.python_version()}-{_BUILD}"
    if not folder.is_dir():
        library = Path(sysconfig.get_paths()["stdlib"])
        splits = _held_out_whole(_documentation(library))
        if not all(splits.values()):
            raise ValueError(f"corpus 'stdlib': {library} holds too little source text of the standard library")
        with new_folder(folder) as draft:
            for split, lines in splits.items():
                (draft / f"{split}.txt").write_bytes("".join(f"{line}\n" for line in lines).encode())
    return {split: folder / f"{split}.txt" for split in ("train", "valid", "test")}


def _documentation(library: Path) -> dict[str, list[str]]:
    """The lines of prose of every top-level module below ``library``. A docstring counts once in a module."""
    modules: dict[str, list[str]] = {}
    entries = sorted(library.iterdir())
    with counted(len(entries), "reading the documentation of Python", unit="modules") as count:
        for entry in entries:
            name = entry.name.removesuffix(".py")
            if name in sys.stdlib_module_names and name not in _SKIPPED_MODULES:
                files = sorted(entry.rglob("*.py")) if entry.is_dir() else [entry]
                inside = (file for file in files if not _SKIPPED_FOLDERS & set(file.relative_to(library).parts))
                texts = dict.fromkeys(text for file in inside for text in _texts(file))
                modules[name] = [line for text in texts for line in prose_lines(text)]
            count(1)
    return modules


def _texts(file: Path) -> Iterator[str]:
    """The docstrings of one source file, or the topics of ``help()`` where the file holds those."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    topics = file.match("pydoc_data/topics.py")
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (docstring := ast.get_docstring(node)):
            yield docstring
        elif topics and isinstance(node, ast.Dict):
            yield from (ast.literal_eval(value) for value in node.values)


def _held_out_whole(modules: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Give every module to one split, and drop from each held-out split the lines that an earlier split has.

    In the order of a hash of their names, modules fill ``valid`` and then ``test`` up to their share of all tokens. A
    module that is too large for the room left goes to ``train``.
    """
    # A line with n spaces has n + 1 words, and an end.
    sizes = {name: sum(line.count(" ") + 2 for line in lines) for name, lines in modules.items()}
    rooms = dict.fromkeys(("valid", "test"), _HELD_OUT_SHARE * sum(sizes.values()))
    split_of = {}
    for name in sorted(modules, key=lambda name: hashlib.sha256(name.encode()).digest()):
        split_of[name] = next((split for split, room in rooms.items() if sizes[name] <= room), "train")
        if split_of[name] != "train":
            rooms[split_of[name]] -= sizes[name]
    splits: dict[str, list[str]] = {}
    seen: set[str] = set()
    for split in ("train", "valid", "test"):
        lines = [line for name in sorted(modules) if split_of[name] == split for line in modules[name]]
        splits[split] = [line for line in lines if line not in seen]
        seen.update(lines)
    return splits
