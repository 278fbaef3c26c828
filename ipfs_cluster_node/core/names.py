"""Ids by name or by their beginning: which one is meant, and the shortest form that names it.

Docs: docs/names.md.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason

PREFIX_CHARS_MIN: Final = 4
"""Fewer characters of the part that differs are never taken for the beginning of an id."""
SHOWN_CHARS_MIN: Final = 8
"""A short form has at least so many characters of the part that differs."""
CANDIDATES_MAX: Final = 5
"""Candidates that a refusal names."""


@dataclass(frozen=True, slots=True)
class IdKind:
    """How the ids of one kind look."""

    what: str
    """What they name, for messages."""
    chars: str
    """Their characters, as a class of a regular expression."""
    whole_chars: int
    """Length of a whole id without its constant start; a longer text is whole too."""
    missing: Reason
    listed_by: str
    """The command that lists them."""
    starts: tuple[str, ...] = ("",)
    """The constant starts, of which each id has one; a beginning may leave it out."""

    def prefixes(self, text: str) -> tuple[str, ...]:
        """What ids begin with if `text` is their beginning; nothing for a whole id or other text.

        Several, if `text` leaves out a constant start of which there are several.
        """
        for start in self.starts:
            if start and text.startswith(start):
                return (text,) if self._is_part(text[len(start) :]) else ()
        if not self._is_part(text):
            return ()
        return tuple(start + text for start in self.starts)

    def chars_needed(self, text: str) -> int:
        """The least length of a beginning, if `text` is a shorter one; else 0."""
        start = next((s for s in self.starts if s and text.startswith(s)), "")
        rest = text[len(start) :]
        begins_start = bool(text) and any(s.startswith(text) for s in self.starts)
        if begins_start and not start:
            return min(len(s) for s in self.starts if s.startswith(text)) + PREFIX_CHARS_MIN
        short = len(rest) < PREFIX_CHARS_MIN and re.fullmatch(self.chars + "*", rest) is not None
        return len(start) + PREFIX_CHARS_MIN if text and short else 0

    def _is_part(self, rest: str) -> bool:
        if not PREFIX_CHARS_MIN <= len(rest) < self.whole_chars:
            return False
        return re.fullmatch(self.chars + "+", rest) is not None

    def shortest(self, ids: Iterable[str]) -> dict[str, str]:
        """The shortest beginning of each id that no other of these has.

        With its constant start, and at least `SHOWN_CHARS_MIN` characters after it.
        """
        ordered = sorted(set(ids))
        shown: dict[str, str] = {}
        alike = 0  # Characters that an id has in common with the one before.
        for at, each in enumerate(ordered, start=1):
            alike_next = _common_chars(each, ordered[at]) if at < len(ordered) else 0
            start = next((s for s in self.starts if s and each.startswith(s)), "")
            chars = max(len(start) + SHOWN_CHARS_MIN, alike + 1, alike_next + 1)
            shown[each] = each[:chars]
            alike = alike_next
        return shown


TASK: Final = IdKind("task", "[0-9a-f]", 20, Reason.TASK_NOT_FOUND, "task list")
CONTENT: Final = IdKind(
    "file",
    "[a-z2-7]",
    52,
    Reason.CONTENT_NOT_FOUND,
    "content ls",
    starts=("bafkrei", "bafybei"),  # CIDv1 of raw and dag-pb with SHA-256, in base32.
)
DELEGATION: Final = IdKind(
    "delegation",
    "[a-z2-7]",
    52,
    Reason.DELEGATION_NOT_FOUND,
    "token list",
    starts=("bafyrei",),  # Of dag-cbor.
)
JOIN_TOKEN: Final = IdKind("join token", "[0-9a-f]", 16, Reason.TOKEN_INVALID, "token list --join")
CERTIFICATE: Final = IdKind(
    "certificate",
    "[0-9a-f]",
    32,  # Of 160 random bits, without leading zeros: 32 to 40 digits.
    Reason.CERTIFICATE_NOT_FOUND,
    "cert list",
)
NODE: Final = IdKind(
    "node",
    "[1-9A-HJ-NP-Za-km-z]",
    44,
    Reason.MEMBER_NOT_FOUND,
    "node list",
    starts=("12D3KooW",),  # PeerIDs of Ed25519 keys.
)
JOINER: Final = replace(NODE, what="joiner", listed_by="node joiners")


@dataclass(frozen=True, slots=True)
class Named:
    """Something that has an id, and perhaps a name."""

    id: str
    name: str = ""

    def __str__(self) -> str:
        """Both, for people."""
        return f"{self.name} ({self.id})" if self.name else self.id


def chosen(kind: IdKind, text: str, candidates: Iterable[Named]) -> Named:
    """The one candidate that `text` means: by its name, its id, or a beginning of its id.

    A name does not win over a beginning: else a node could be named as the beginning of another's
    id, and be taken for it.

    Raises:
        ClusterError: INVALID_ARGUMENT, if there are several; the kind's reason, if there is none.
    """
    prefixes = kind.prefixes(text)
    found = {
        each.id: each
        for each in candidates
        if text in (each.name, each.id) or (prefixes and each.id.startswith(prefixes))
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise ClusterError(
            kind.missing,
            f"there is no {kind.what} {text!r:.80} that you may see; `{kind.listed_by}` lists them",
        )
    first = sorted(map(str, found.values()))
    more = ", and more" if len(first) > CANDIDATES_MAX else ""
    raise ClusterError(
        Reason.INVALID_ARGUMENT,
        f"{text} is ambiguous: {', '.join(first[:CANDIDATES_MAX])}{more}; give more of the id",
    )


def _common_chars(one: str, other: str) -> int:
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))
