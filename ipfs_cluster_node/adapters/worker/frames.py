"""Frames between a node and its handler processes.

`header length u32 | body length u32`, little endian, then a JSON header and a body of bytes.
Nothing is ever unpickled.
"""

import json
import struct
from typing import Any, Final

HEAD: Final = struct.Struct("<II")
HEADER_BYTES_MAX: Final = 1024 * 1024
BODY_BYTES_MAX: Final = 64 * 1024 * 1024


def encode_frame(header: dict[str, Any], body: bytes = b"") -> bytes:
    """Encode a frame; raises ValueError for a number that JSON does not have."""
    encoded = json.dumps(header, allow_nan=False).encode()
    return HEAD.pack(len(encoded), len(body)) + encoded + body


def frame_sizes(head: bytes) -> tuple[int, int]:
    """Read the sizes of a frame; raises ValueError if they are too large."""
    header_bytes, body_bytes = HEAD.unpack(head)
    if header_bytes > HEADER_BYTES_MAX or body_bytes > BODY_BYTES_MAX:
        raise ValueError("a frame is larger than allowed")
    return header_bytes, body_bytes
