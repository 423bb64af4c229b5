"""The documents as a site: links lead somewhere, the navigation has every page, and it builds without a warning."""

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import eru
import eru.lm
import eru.training
import eru_runtime
import vision

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ABOVE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
FILES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
GUIDES = ("from-lstm.md", "language-models.md", "vision.md", "on-a-device.md", "unit.md", "recurrence.md", "paper.md")
PACKAGES = {"eru": eru, "lm": eru.lm, "training": eru.training, "vision": vision, "edge": eru_runtime}
NEEDED = ("mkdocs", "material", "mkdocstrings", "latex2mathml")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_mkdocs = pytest.mark.skipif(bool(MISSING), reason=f"the extra `docs` is not installed: {', '.join(MISSING)}")


def prose(path):
    """A document without its code."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def anchors(path):
    """The anchors of a document: its headings, as GitHub and the site name them, and what its reference describes."""
    text, seen, found = prose(path), Counter(), set(re.findall(r"^::: (\S+)$", prose(path), flags=re.MULTILINE))
    for title in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
        seen[slug] += 1
    return found


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_link_leads_to_a_file_and_a_heading(path):
    broken = []
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(path)))
    for link in links:
        target, _, anchor = link.partition("#")
        if target.startswith(("http:", "https:")):
            continue
        there = path if not target else (path.parent / target).resolve()
        if not there.is_file() or (anchor and anchor not in anchors(there)):
            broken.append(link)
    assert broken == []


def test_the_navigation_has_every_page_once():
    named = re.findall(r"^ +- [^:#]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(named) == sorted([*pages, *map(str.lower, ABOVE)])


def test_no_guide_is_too_long_to_read():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in DOCS.glob("*.md")}
    assert {name: length for name, length in lengths.items() if length > 250} == {}
    assert set(GUIDES) <= set(lengths)


@pytest.mark.parametrize("page", PACKAGES)
def test_the_reference_has_every_public_name(page):
    package = PACKAGES[page]
    described = re.findall(r"^::: (\S+)$", (DOCS / "api" / f"{page}.md").read_text(encoding="utf-8"), re.MULTILINE)
    types = {"OptimizerName", "Precision", "Schedule"}  # which the fields that have them spell out
    # A function that is named like its module stands below it.
    names = {re.sub(r"\.(\w+)\.\1$", r".\1", name) for name in described}
    assert [name for name in package.__all__ if name not in types and f"{package.__name__}.{name}" not in names] == []


@needs_mkdocs
def test_docstrings_become_markdown():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        as_markdown = importlib.import_module("hooks").as_markdown
    text = "Of x.\n\n.. math::\n    a_q = W x, \\quad\n    b\n\nThen :math:`W_q` of (*, M), :func:`eru.optimize`.\n"
    text += "\nArgs:\n    device, dtype: Where.\n    **others: More.\n\nShape:\n    input (*, M)\n"
    text += "\nExample:\n    >>> 2 * 3\n    6\n\nAnd 2 * 3.\n"
    assert as_markdown(text).splitlines() == [
        *("Of x.", "", "$$", "a_q = W x, \\quad b", "$$", ""),
        'Then $W_q$ of (\\*, M), <autoref identifier="eru.optimize" optional><code>eru.optimize</code></autoref>.',
        *("", "Args:", "    device,\N{NO-BREAK SPACE}dtype: Where.", "    **others: More."),
        *("", "**Shape:**", "", "input (\\*, M)"),
        *("", "Examples:", "    >>> 2 * 3", "    6", "", "And 2 \\* 3."),
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@needs_mkdocs
def test_the_site_builds_and_stands_alone(site):
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) > 20
    for path, page in pages.items():
        text = re.sub(r"<pre.*?</pre>|<code.*?</code>", "", page, flags=re.DOTALL)
        assert not re.search(r":(math|func|class|meth|mod):|\.\. math::|class=\"arithmatex\"|\$\$", text), path
        # What a browser fetches by itself; a link that a reader follows may lead anywhere.
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?([^\s\">]+)", page)
        loaded += re.findall(r"<link[^>]* rel=\"?(?:stylesheet|preconnect|icon)\"?[^>]*>", page)
        assert [one for one in loaded if "//" in one] == [], path


@pytest.mark.slow
@needs_mkdocs
def test_the_reference_describes_what_it_names(site):
    page = (site / "api" / "eru" / "index.html").read_text(encoding="utf-8")
    for name in ("eru.ERU", "eru.ERUCell.forward", "eru.EESPGates.dense_weight", "eru.lstm_scan"):
        assert f'id="{name}"' in page
    assert page.count("<math") > 5
