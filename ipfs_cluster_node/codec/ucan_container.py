"""Containers: several UCAN tokens in one text, suitable as a metadata value.

Only the form `C`: CBOR in base64url without padding. Compressed forms are refused unread.

Source: ucan-wg/container v0.1.0.
"""

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final

from ipfs_cluster_node.core.dag_cbor import DagCborError, Value, decode, encode
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError, malformed
from ipfs_cluster_node.core.ucan.profiles import ValidationProfile

HEADER: Final = "C"
KEY: Final = "ctn-v1"

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
_LEVELS: Final = 2
"""A map and the list in it."""


def write_container(tokens: Iterable[bytes]) -> str:
    """Put tokens into a container; order and repeats of `tokens` do not matter."""
    listed: list[Value] = [*sorted(set(tokens))]
    return HEADER + _base64url(encode({KEY: listed}))


def read_container(text: str, *, profile: ValidationProfile) -> list[bytes]:
    """Read a container.

    Returns:
        The tokens, at most `profile.container_tokens_max`, sorted by their bytes and unique; their
        content is not checked.

    Raises:
        UcanError: TooLarge or Malformed.
    """
    if len(text) > profile.container_chars_max:
        limit = profile.container_chars_max
        raise UcanError(Refusal.TOO_LARGE, f"a container has at most {limit} characters")
    body = text[1:]
    if text[:1] != HEADER or not _BASE64URL.fullmatch(body):
        raise malformed(f"a container is {HEADER!r} and base64url without padding")
    try:
        value = decode(_from_base64url(body), bytes_max=len(body), depth_max=_LEVELS)
    except DagCborError as error:
        raise malformed(f"the container is not canonical CBOR: {error}") from None
    match value:
        case {"ctn-v1": list(items), **rest} if not rest:
            return _tokens(items, profile)
    raise malformed("the container has another form")


def _from_base64url(body: str) -> bytes:
    try:
        decoded = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except binascii.Error:
        raise malformed("the container is not base64url") from None
    # Bits after the last byte would give one container several texts.
    rest = len(decoded) % 3
    if rest and _base64url(decoded[-rest:])[-1] != body[-1]:
        raise malformed("the container is not base64url in its one form")
    return decoded


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode("ascii").rstrip("=")


def _tokens(items: list[Value], profile: ValidationProfile) -> list[bytes]:
    if len(items) > profile.container_tokens_max:
        limit = profile.container_tokens_max
        raise UcanError(Refusal.TOO_LARGE, f"a container has at most {limit} tokens")
    tokens: list[bytes] = []
    for item in items:
        if not isinstance(item, bytes) or (tokens and item <= tokens[-1]):
            raise malformed("the tokens of the container repeat or are not in order")
        tokens.append(item)
    return tokens
