"""Pages of lists: what a request asks for, and the tokens that name the next page.

A token holds the key of the last row that was shown; the next page begins after it in the list's
order. So it is valid at any master, after a change of leader, and however rows change: a row that
is there all the time is shown exactly once, one that comes or goes meanwhile at most once.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final, Protocol

from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field

PAGE_SIZE_DEFAULT: Final = 100
PAGE_SIZE_MAX: Final = 1000
PAGE_TOKEN_CHARS_MAX: Final = 512
PAGE_DIGITS_MAX: Final = 18
"""Longest key that is a number: `int` rejects thousands of digits."""


class PageRequest(Protocol):
    """A request of a list."""

    @property
    def page_size(self) -> int:
        """Most rows; 0 for the default."""

    @property
    def page_token(self) -> str:
        """Of the previous page; empty for the first."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list."""

    kind: str
    """Of the list: a token of another one is refused."""
    size: int
    """Most rows, 1 to `PAGE_SIZE_MAX`."""
    after: str = ""
    """The key of the last row of the previous page; empty for the first page."""

    def after_number(self) -> int | None:
        """The key, of a list ordered by number; None for the first page.

        Raises:
            ClusterError: INVALID_ARGUMENT.
        """
        if not self.after:
            return None
        if not (self.after.isascii() and self.after.isdigit()) or len(self.after) > PAGE_DIGITS_MAX:
            raise bad_page_token()
        return int(self.after)

    def token_after(self, key: object) -> str:
        """The token of the page that begins after the row with this key."""
        return urlsafe_b64encode(f"{self.kind} {key}".encode()).decode().rstrip("=")


def page_of(request: PageRequest, kind: str) -> Page:
    """Read a page request; a size above the maximum is lowered to it.

    Raises:
        ClusterError: INVALID_ARGUMENT: a negative size, or a token of another list.
    """
    if request.page_size < 0:
        raise invalid_field("page_size", "0 or more")
    size = min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
    return Page(kind, size, _after(request.page_token, kind))


def _after(token: str, kind: str) -> str:
    if not token:
        return ""
    try:
        if len(token) > PAGE_TOKEN_CHARS_MAX:
            raise bad_page_token()
        text = urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except ValueError:
        raise bad_page_token() from None
    of, _, key = text.partition(" ")
    if of != kind or not key:
        raise bad_page_token()
    return key


def bad_page_token() -> ClusterError:
    """The error for a page token of another list."""
    return ClusterError(
        Reason.INVALID_ARGUMENT, "the page token is not of this list; begin with an empty one"
    )
