"""Resume tokens of watches: where in which history a reader is, and what it has read."""

import struct
import zlib
from collections.abc import Iterable
from hashlib import sha256
from typing import Final, NamedTuple

from ipfs_cluster_node.core.errors import invalid_field

VERSION: Final = 1
_LAYOUT: Final = struct.Struct(">B8s8sQQ?")
_CHECK: Final = struct.Struct(">I")


class ResumeToken(NamedTuple):
    """A bookmark that a reader goes on from. Grants nothing: the call that brings it is judged."""

    cluster: bytes
    """A digest of the cluster's id."""
    tables: bytes
    """A digest of what is watched, and how it is encoded."""
    revision: int
    term: int
    """The term of the log's entry `revision`."""
    everything: bool
    """Whether the reader was allowed every row."""


def digest_of(parts: Iterable[bytes]) -> bytes:
    """The first 8 bytes of the SHA-256 of these parts, in order."""
    digests = (sha256(part).digest() for part in parts)
    return sha256(b"".join(digests)).digest()[:8]


def encode_resume_token(token: ResumeToken) -> bytes:
    """Encode a token."""
    data = _LAYOUT.pack(VERSION, *token)
    return data + _CHECK.pack(zlib.crc32(data))


def decode_resume_token(data: bytes) -> ResumeToken:
    """Read a token; raises INVALID_ARGUMENT for one that is damaged or of another kind."""
    if len(data) == _LAYOUT.size + _CHECK.size:
        version, *fields = _LAYOUT.unpack_from(data)
        [check] = _CHECK.unpack_from(data, _LAYOUT.size)
        if version == VERSION and check == zlib.crc32(data[: _LAYOUT.size]):
            return ResumeToken(*fields)
    raise invalid_field("resume_token", "it is of no bookmark; watch without one, from nothing")
