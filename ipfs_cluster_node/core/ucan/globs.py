r"""Patterns of `like`: `*` matches any run of characters, `\*` a star.

Source: ucan-wg/delegation, "Glob Matching". A backslash before anything else is a backslash.
"""

import re
from dataclasses import dataclass
from typing import Final

_STAR: Final = re.compile(r"\\\*|\*")


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern, split at its stars."""

    pieces: tuple[str, ...]
    """Literal text between the stars: one piece more than there are stars."""

    @classmethod
    def parse(cls, pattern: str) -> "Glob":
        """Read a pattern; every text is one."""
        pieces, piece, start = [], "", 0
        for star in _STAR.finditer(pattern):
            piece += pattern[start : star.start()]
            start = star.end()
            if star[0] == "*":
                pieces.append(piece)
                piece = ""
            else:
                piece += "*"
        return cls((*pieces, piece + pattern[start:]))

    def matches(self, text: str) -> bool:
        """Whether the whole of `text` matches.

        Each piece is searched once, after the one before it, so the time is linear in `text`
        however many stars there are.
        """
        first, *middle = self.pieces
        if not middle:
            return text == first
        last = middle.pop()
        if len(text) < len(first) + len(last):
            return False
        if not (text.startswith(first) and text.endswith(last)):
            return False
        offset, end = len(first), len(text) - len(last)
        for piece in middle:
            found = text.find(piece, offset, end)
            if found < 0:
                return False
            offset = found + len(piece)
        return True
