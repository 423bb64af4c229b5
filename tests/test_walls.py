"""Imports run one way: who may know of whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "eru": ("vision", "eru_cli"),
    "eru/training": ("eru.lm", "vision", "eru_cli"),
    "eru/edge": ("eru.lm", "vision", "eru_cli"),
    "eru_runtime": ("eru", "vision", "eru_cli", "torch"),
    "vision": ("eru.lm", "eru_cli"),
}


def imported(path):
    """The modules that a file imports anywhere in it, those of ``from package import module`` included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_import_crosses_a_wall(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    crossings = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in files
        for module in imported(path)
        for other in FORBIDDEN[package]
        if f"{module}.".startswith(f"{other}.")
    ]
    assert crossings == []
