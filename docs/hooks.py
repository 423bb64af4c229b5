"""What mkdocs does to the documents beyond its own; mkdocs.yml names this file twice.

The Markdown files are read in the repository and on the site. So files that lie above docs/ become pages too, links
between the two are turned, and equations become MathML, which browsers draw by themselves: no page loads anything from
another server.

The docstrings have Google's sections and reST's directives and roles. `Docstrings` makes Markdown of them.
"""

import html
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ABOVE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")

_FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make pages of the files above docs/."""
    for name in ABOVE:
        files.append(File.generated(config, name.lower(), content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn the links between the files above docs/ and those in it, and call pages by their titles."""
    markdown = re.sub(r"\]\((?:\.\./)?README\.md\)", "](index.md)", markdown)
    for name in ABOVE:
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(name)}", f"]({name.lower()}", markdown)
    markdown = markdown.replace("](docs/", "](")
    return re.sub(r"\[(?:docs/)?([\w-]+\.md)\](?=\()", lambda found: f"[{_title(found[1])}]", markdown)


def _title(name: str) -> str:
    """The heading of a document."""
    path = ROOT / name if name in ABOVE else ROOT / "docs" / name
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def on_page_content(content: str, **_: Any) -> str:
    """Draw the equations."""
    return _FORMULA.sub(lambda found: as_mathml(found[2], is_block=found[1] == "div"), content)


def as_mathml(formula: str, *, is_block: bool) -> str:
    """The MathML of a formula in LaTeX that stands in HTML."""
    return convert(html.unescape(formula).strip(), display="block" if is_block else "inline")


class Docstrings(griffe.Extension):
    """Makes Markdown of all docstrings of a package, once it is read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite them in place."""
        for thing in _things(pkg):
            if thing.docstring is not None:
                thing.docstring.value = as_markdown(thing.docstring.value, thing)


def _things(thing: griffe.Object) -> Iterator[griffe.Object]:
    """An object and all that is defined in it; what is imported is defined elsewhere."""
    yield thing
    for member in thing.members.values():
        if isinstance(member, griffe.Object):
            yield from _things(member)


_MATH = re.compile(r"^( *)\.\. math::\n((?:\1 +.*\n|\n)+)", re.MULTILINE)
_ROLE = re.compile(r":(\w+):`([^`]+)`")
_SECTION = re.compile(r"^(Shape|Source):\n((?: +.*\n|\n)+)", re.MULTILINE)  # which mkdocstrings would frame
_NAMES = re.compile(r"^ +\w+(?:, \w+)+(?=: )", re.MULTILINE)
# In which no star is escaped: titles, formulas, code, references, examples, names of arguments.
_WHOLE = re.compile(
    r"^\*\*\w+:\*\*$|\$\$.*?\$\$|\$[^$\n]+\$|``.+?``|`[^`]+`|<autoref .*?</autoref>"
    r"|^ *>>> (?:[^\n]+\n?)+|^ *\*+\w+(?=: )",
    re.DOTALL | re.MULTILINE,
)


def as_markdown(text: str, thing: griffe.Object | None = None) -> str:
    r"""A docstring's directives and roles as Markdown; names are looked up from where the docstring stands.

    Example:
        >>> as_markdown("Of (*, M), see :math:`W_q` and ``a * b``.")
        'Of (\\*, M), see $W_q$ and ``a * b``.'
    """
    text = _MATH.sub(_as_block, text + "\n")
    text = _SECTION.sub(lambda found: f"**{found[1]}:**\n\n{dedent(found[2])}", text).rstrip("\n")
    text = _ROLE.sub(lambda found: _as_reference(found[1], found[2], thing), text)
    text = _NAMES.sub(lambda found: found[0].replace(", ", ",\N{NO-BREAK SPACE}"), text)
    text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    parts, end = [], 0
    for whole in _WHOLE.finditer(text):
        parts += [text[end : whole.start()].replace("*", r"\*"), whole[0]]
        end = whole.end()
    return "".join([*parts, text[end:].replace("*", r"\*")])


def _as_block(found: re.Match[str]) -> str:
    formula = " ".join(dedent(found[2]).split())
    return indent(f"$$\n{formula}\n$$\n\n", found[1])


def _as_reference(role: str, target: str, thing: griffe.Object | None) -> str:
    """A formula, or a name that links to its description where the site has one."""
    if role == "math":
        return f"${target}$"
    path = target
    if thing is not None and "." not in target:
        with suppress(griffe.NameResolutionError):
            path = thing.resolve(target)
    return f'<autoref identifier="{path}" optional><code>{target}</code></autoref>'
