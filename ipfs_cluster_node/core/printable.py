"""Makes untrusted text safe to show on a terminal. Pure."""

import json
import unicodedata
from typing import Any, Final

BLANK: Final = frozenset("\u034f\u115f\u1160\u3164\uffa0")
"""Letters and marks that are invisible, and so hide content."""
SELECTORS: Final = range(0xE0100, 0xE01F0)
"""Variation selectors of the supplement: invisible, but able to carry text."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Escape each character that a terminal would interpret or not show, like `\x1b`; not `keep`.

    These are control characters (including line ends and tabs), format characters (directions,
    zero widths, tags), line and paragraph separators, lone surrogates, and invisible letters.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each in keep or _is_shown(each) else _escaped(each) for each in text)


def end_of_text(text: str, bytes_max: int) -> str:
    """The end of a text, at most so many bytes in UTF-8; a lone surrogate becomes `?`."""
    return text.encode("utf-8", "replace")[-bytes_max:].decode("utf-8", "ignore")


def json_text(document: Any) -> str:
    """JSON on one line, in ASCII without control characters; other types as their text."""
    return json.dumps(document, default=str).replace("\x7f", "\\u007f")


def _is_shown(each: str) -> bool:
    if each in BLANK or ord(each) in SELECTORS:
        return False
    return each.isprintable() or unicodedata.category(each) == "Zs"


def _escaped(each: str) -> str:
    return each.encode("unicode_escape").decode()
