"""An exported model's tokenizer, and its text as it is made piece by piece."""

from collections.abc import Iterable, Iterator, Sequence

from eru_runtime.folder import Folder
from eru_runtime.unigram import UnigramTokenizer
from eru_runtime.vocabulary import VocabularyTokenizer

Tokenizer = VocabularyTokenizer | UnigramTokenizer
"""Lines of text, without their newlines, to token ids and back.

Both have ``vocab_size``, above all ids; ``eos``, the id that ends a line, which ``encode`` does not append; and
``unknown``, the id of whatever the vocabulary lacks.
"""


def read_tokenizer(folder: Folder) -> Tokenizer:
    """The tokenizer of an exported folder.

    Raises:
        ValueError: Its file is missing, damaged, or of another kind.
    """
    path, fields = folder.tokenizer()
    try:
        special = {name: fields[name] for name in ("unknown", "eos")}
        match fields["kind"]:
            case "word" | "char" as kind:
                return VocabularyTokenizer(fields["types"], words=kind == "word", **special)
            case "sentencepiece":
                return UnigramTokenizer(fields["pieces"], fields["scores"], fields["types"], **special)
            case other:
                raise ValueError(f"kind={other!r}: must be 'word', 'char' or 'sentencepiece'")
    except KeyError as error:
        raise ValueError(f"{path}: has no field {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def decode_stream(tokenizer: Tokenizer, groups: Iterable[Sequence[int]]) -> Iterator[str]:
    r"""The text of groups of ids, each as soon as it is known.

    All parts together are what the tokenizer makes of all ids at once. A group that ends within a character, of which
    only some bytes are there, is kept until the next.

    Example:
        >>> tokenizer = VocabularyTokenizer(["<unk>", "<eos>", "the", "cat"], unknown=0, eos=1, words=True)
        >>> list(decode_stream(tokenizer, [[2, 3], [1], [2], [3]]))
        ['the cat', '\n', 'the', ' cat']
    """
    before: list[int] = []  # the last id whose text is out: it decides whether a space comes next
    waiting: list[int] = []
    for ids in groups:
        waiting += ids
        text = tokenizer.decode(before + waiting)[len(tokenizer.decode(before)) :]
        if text and not text.endswith("\ufffd"):
            yield text
            before, waiting = waiting[-1:], []
    if waiting:
        yield tokenizer.decode(before + waiting)[len(tokenizer.decode(before)) :]
