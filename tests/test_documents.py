"""The documents quote only what a result file holds, and the programs in them run."""

import importlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
PROGRAM = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
TABLE = re.compile(r"<!-- table: .*?<!-- end -->", re.DOTALL)
ROOMS = "eru|eru_cli|eru_runtime|vision|benchmarks|examples|docs|tests"
NAMES = [document.name for document in DOCUMENTS]
GUIDES = [document for document in DOCUMENTS if PROGRAM.search(document.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def tables():
    """The program that writes the documents' tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("tables")


def refused(tables, capsys, *arguments):
    """The exit code and the complaint of a call."""
    with pytest.raises(SystemExit) as caught:
        tables.main([str(argument) for argument in arguments])
    return caught.value.code, capsys.readouterr().err.splitlines()[-1]


def test_the_documents_hold_what_the_result_files_hold(tables):
    tables.main(["--check"])


def test_every_moved_figure_is_caught(tables, tmp_path, capsys):
    figures = 0
    for document in DOCUMENTS:
        text, copy = document.read_text(encoding="utf-8"), tmp_path / document.name
        for table in TABLE.finditer(text):
            for figure in re.finditer(r"\d+(?:[.,]\d+)+", table[0]):
                start = table.start() + figure.start()
                copy.write_text(f"{text[:start]}9{text[start:]}", encoding="utf-8")
                code, message = refused(tables, capsys, "--check", copy)
                assert code == 1
                assert message.startswith(f"{document.name}: not as the result files say")
                figures += 1
    assert figures > 200


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_what_was_moved_is_put_right(tables, tmp_path, document):
    text, copy = document.read_text(encoding="utf-8"), tmp_path / "copy.md"
    copy.write_text(TABLE.sub(lambda table: table[0].replace("1", "2"), text), encoding="utf-8")
    tables.main([str(copy)])
    assert copy.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: cours -->\n<!-- end -->", "there is no table 'cours', only ablation, "),
        ("<!-- table: course -->\n| run |", "a table is not between"),
        ("| run |\n<!-- end -->", "a table is not between"),
        ("<!-- table: course -->\n<!-- table: ptb -->\n<!-- end -->", "a table is not between"),
    ],
)
def test_a_marker_that_marks_nothing_is_refused(tables, tmp_path, capsys, text, message):
    document = tmp_path / "broken.md"
    document.write_text(text, encoding="utf-8")
    code, complaint = refused(tables, capsys, document)
    assert code == 2
    assert f"broken.md: {message}" in complaint
    assert document.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_no_figure_stands_outside_of_the_tables(document):
    """Perplexities, ratios and parameter counts that a person copied would go out of date in silence."""
    prose = TABLE.sub("", document.read_text(encoding="utf-8"))
    prose = re.sub(r"```.*?```|`[^`]*`|https?:\S+|arXiv \d+\.\d+|Python \d\.\d+", "", prose, flags=re.DOTALL)
    assert re.findall(r"(?<![\d.])\d+\.\d\d+(?!\.)|\d{1,3}(?:,\d{3}){2,}", prose) == []


def test_no_test_figure_and_no_ablation_is_kept_back():
    """What was read from the test text once is told, whatever it is."""
    found = {path: json.loads(path.read_text()) for path in (ROOT / "benchmarks" / "results" / "ptb").rglob("*.json")}
    held = [result["exact_test_perplexity"] for result in found.values() if "exact_test_perplexity" in result]
    held += [report["perplexity"] for result in found.values() for report in result["evaluations"]]
    held += [one["course"][-1]["valid_perplexity"] for path, one in found.items() if path.parent.name == "ablation"]
    assert len(held) > 10
    pages = [(ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("results", "history")]
    told = " ".join(TABLE.findall("".join(pages)))
    assert {f"{perplexity:.2f}" for perplexity in held} <= set(re.findall(r"\d+\.\d\d", told))


def test_the_papers_page_has_every_row_of_its_file(tables):
    counted = [name for name in tables.TABLES if name.startswith("paper_") and name != "paper_perplexity"]
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    assert [name for name in counted if f"<!-- table: {name} -->" not in page] == []
    shown = sum(len(tables.TABLES[name]().splitlines()) - 2 for name in counted)
    assert shown == len(tables.result("paper")["rows"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_file_that_a_document_names_is_there(document):
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(rf"(?<![\w/])(?:{ROOMS})/[\w/-]+\.(?:py|c|md|png|jpg|json)\b", text))
    linked = {(document.parent / path).relative_to(ROOT) for path in re.findall(r"\]\((?!http)([^)#]+)\)", text)}
    assert [path for path in sorted(map(str, named | linked)) if not (ROOT / path).exists()] == []


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder to run programs in, with the published file and the photograph that they read, and a little text."""
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("the company said it had said no .\n" * 40)
    for number in range(2):
        (tmp_path / "texts" / f"part {number}").mkdir(parents=True)
        (tmp_path / "texts" / f"part {number}" / "one.txt").write_text("It had said so, and no more.\n\n" * 40)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "astronaut.jpg", tmp_path / "docs")
    if reference := os.environ.get("ERU_REFERENCE"):
        (tmp_path / "cache" / "weights").mkdir(parents=True)
        shutil.copy(f"{reference}/weights/espnetv2_s_2.0_pascal_384x384.pth", tmp_path / "cache" / "weights")
    monkeypatch.setenv("ERU_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.skipif("ERU_REFERENCE" not in os.environ, reason="needs the authors' weights: set ERU_REFERENCE")
@pytest.mark.usefixtures("workplace")
def test_the_picture_can_be_drawn_anew(monkeypatch):
    draw(monkeypatch, "overview", (1800, 800))


@pytest.mark.usefixtures("workplace")
def test_the_diagram_of_the_recurrence_can_be_drawn_anew(monkeypatch):
    draw(monkeypatch, "recurrence", (1800, 500))


def draw(monkeypatch, name, size):
    monkeypatch.syspath_prepend(ROOT / "docs")
    importlib.import_module("pictures").main([name, "--out", f"{name}.png"])
    for path in (f"{name}.png", ROOT / "docs" / f"{name}.png"):
        with Image.open(path) as picture:
            assert picture.size == size


def masked(text):
    """A text whose numbers do not matter: they differ between machines, and with the text that is trained on."""
    return re.sub(r"\d+(\.\d+)?", "0", text)


@pytest.mark.parametrize("document", GUIDES, ids=[document.name for document in GUIDES])
@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script", "ignore:The .grad attribute of a Tensor"
)  # torch's own exporter
@pytest.mark.usefixtures("workplace")
def test_the_programs_of_a_document_print_what_it_says(document, capsys):
    programs = PROGRAM.findall(document.read_text(encoding="utf-8"))
    variables = {}
    for program, printed in programs:
        if "load_predictor" in program and "ERU_REFERENCE" not in os.environ:
            continue
        # A little text in place of the large ones, which would take minutes.
        exec(program.replace('"stdlib"', '"."').replace('data="ptb"', 'data="."'), variables)
        assert masked(capsys.readouterr().out) == masked(printed)
