"""Text from elsewhere, as a terminal may show it. Pure."""

import json
import unicodedata
from typing import Any, Final

BLANK: Final = frozenset("\u034f\u115f\u1160\u3164\uffa0")
"""Letters and marks that show nothing, and so hide what is there."""
SELECTORS: Final = range(0xE0100, 0xE01F0)
"""Variation selectors of the supplement: invisible, and able to carry text."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Text with each character that a terminal would obey or not show as an escape, like `\x1b`.

    These are control characters (line ends and tabs too), format characters (directions, zero
    widths, tags), line and paragraph separators, lone surrogates, and what has no shape.

    Args:
        text: Anyone's.
        keep: Characters to leave as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each in keep or _is_shown(each) else _escaped(each) for each in text)


def end_of_text(text: str, bytes_max: int) -> str:
    """Cut off the beginning of what takes more bytes in UTF-8; a lone surrogate becomes `?`."""
    return text.encode("utf-8", "replace")[-bytes_max:].decode("utf-8", "ignore")


def json_text(document: Any) -> str:
    """JSON on one line, in ASCII without control characters; what has no JSON form as its text."""
    return json.dumps(document, default=str).replace("\x7f", "\\u007f")


def _is_shown(each: str) -> bool:
    if each in BLANK or ord(each) in SELECTORS:
        return False
    return each.isprintable() or unicodedata.category(each) == "Zs"


def _escaped(each: str) -> str:
    return each.encode("unicode_escape").decode()
