"""What a user who has mistyped a name may have meant."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """A question with the names that are most like one that is not among them, or nothing where none is.

    Args:
        name: What was typed.
        names: Those there are.
        cutoff: How alike two names must be, from 0 to 1.

    Example:
        >>> did_you_mean("tokeniser", ["tokenizer", "dropout"])
        'did you mean tokenizer? '
    """
    close = difflib.get_close_matches(str(name), list(names), n=3, cutoff=cutoff)
    return f"did you mean {', '.join(close)}? " if close else ""
