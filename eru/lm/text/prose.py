"""Documentation as lines of tokens like those of the Penn Treebank: lower case, signs apart, N for numbers."""

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator

_BLANK_LINE = re.compile(r"\n\s*\n")
_BULLET = re.compile(r"(?:[-*+o]|\(?\d{1,2}[.)]|\(?[a-z]\))\s+")
_COLUMN_GAP = re.compile(r"\S {3,}\S")
_MARKUP = re.compile(r":[a-z:]+:(?=`)|[`*]+")
_SENTENCE_END = re.compile(r"""(?:(?<=[.!?])|(?<=[.!?]["')]))(?<!e\.g\.)(?<!i\.e\.)\s+(?=["'(<]?[A-Z])""")
# "doesn't" becomes "does n't", and "it's" "it 's", as in the Treebank. A word may hold digits ("utf8"). Any other sign
# is a token of its own.
_TOKEN = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b|[a-z]+?(?=n't\b)|\d+(?:[.,:]\d+)+|[^\W_]+|\S")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_PLAIN_QUOTES = str.maketrans("‘’“”", "''\"\"")
_CODE = frozenset("=<>{}[]|\\@#$%^&*~+")


def prose_lines(text: str) -> list[str]:
    r"""Split a documentation string into tokenised sentences and drop what is not prose.

    Doctests, tables, and every block that Python itself can parse are left out. A sentence of another block stays if
    it holds at least two words, at least four words in ten tokens, and at most two signs of code in ten tokens.

    Example:
        >>> prose_lines("Return the 2 file's names. They aren't sorted.\n\n>>> names()\n['a']")
        ["return the N file 's names .", "they are n't sorted ."]
    """
    sentences = (part for paragraph in _paragraphs(text) for part in _SENTENCE_END.split(paragraph))
    return [" ".join(tokens) for sentence in sentences if _is_prose(tokens := _tokenise(sentence))]


def _paragraphs(text: str) -> Iterator[str]:
    """The blocks between blank lines, each in one line. An item of a list is a paragraph of its own."""
    for block in _BLANK_LINE.split(text.expandtabs()):
        if _is_code(block):
            continue
        paragraph: list[str] = []
        for line in map(str.strip, block.split("\n")):
            if line.startswith(">>>"):  # The rest of the block is its continuation and what it prints.
                break
            bullet = _BULLET.match(line)
            if bullet:
                yield " ".join(paragraph)
                paragraph, line = [], line[bullet.end() :]
            if any(map(str.isalnum, line)) and not _COLUMN_GAP.search(line):
                paragraph.append(line)
        yield " ".join(paragraph)


def _tokenise(sentence: str) -> list[str]:
    plain = _MARKUP.sub("", sentence).translate(_PLAIN_QUOTES).lower()
    return ["N" if _NUMBER.fullmatch(token) else token for token in _TOKEN.findall(plain)]


def _is_code(block: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(textwrap.dedent(block))
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def _is_prose(tokens: list[str]) -> bool:
    words = sum(token[0].isalpha() and token != "N" for token in tokens)
    code = sum(token in _CODE for token in tokens)
    return words >= 2 and 10 * words >= 4 * len(tokens) and 10 * code <= 2 * len(tokens)
