"""The documents quote only what a result file holds."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Of the papers: ESPNetv2's ERU of 7 M and 15 M, PRU with standard and with weight dropout.
OTHERS = {"73.63", "63.47", "62.42", "56.56"}


def numbers(value: object) -> Iterator[float]:
    """All numbers in what JSON holds."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield value


def section(file: str, heading: str | None) -> str:
    """A document, or one section of it, without its code."""
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / file).read_text(encoding="utf-8"), flags=re.DOTALL)
    if heading is None:
        return text
    (found,) = re.findall(rf"^## {re.escape(heading)}.*?(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    return found


@pytest.mark.parametrize(
    ("file", "heading", "results"),
    [
        ("docs/results.md", None, "ptb/**/*.json"),
        ("docs/design.md", "What is the ERU? Which input map", "input_maps*.json"),
    ],
)
def test_every_perplexity_is_in_a_result_file(file, heading, results):
    files = sorted((ROOT / "benchmarks" / "results").glob(results))
    held = {f"{number:.2f}" for path in files for number in numbers(json.loads(path.read_text()))}
    quoted = set(re.findall(r"(?<![\d.,])\d+\.\d\d(?!\d|\.\d)", section(file, heading)))
    assert len(quoted) > 20, "the figures are no longer where they were looked for"
    assert quoted - held <= OTHERS


def test_no_test_figure_and_no_ablation_is_kept_back():
    """What was read from the test text once is told, whatever it is."""
    found = {path: json.loads(path.read_text()) for path in (ROOT / "benchmarks" / "results" / "ptb").rglob("*.json")}
    held = [result["exact_test_perplexity"] for result in found.values() if "exact_test_perplexity" in result]
    held += [report["perplexity"] for result in found.values() for report in result["evaluations"]]
    held += [one["course"][-1]["valid_perplexity"] for path, one in found.items() if path.parent.name == "ablation"]
    assert len(held) > 10
    assert {f"{perplexity:.2f}" for perplexity in held} <= set(
        re.findall(r"\d+\.\d\d", section("docs/results.md", None))
    )


def test_every_parameter_count_is_in_a_result_file():
    files = [*(ROOT / "benchmarks" / "results").rglob("*.json")]
    held = {f"{number:,}" for path in files for number in numbers(json.loads(path.read_text()))}
    texts = [section("README.md", None), section("docs/results.md", None), section("docs/performance.md", None)]
    quoted = {count for text in texts for count in re.findall(r"\b\d{1,3}(?:,\d{3}){2,}\b", text)}
    assert "6,962,576" in quoted
    assert quoted <= held
