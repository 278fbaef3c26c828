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
    """Encode a frame."""
    encoded = json.dumps(header).encode()
    return HEAD.pack(len(encoded), len(body)) + encoded + body


def decode_header(data: bytes) -> dict[str, Any]:
    """Read a frame's header. Halves of characters, which no message can carry, are replaced.

    Raises:
        ValueError: Not a JSON object.
    """
    header = json.loads(data)
    if not isinstance(header, dict):
        raise ValueError("a frame's header is a JSON object")  # noqa: TRY004
    return {key: _whole(value) for key, value in header.items()}


def _whole(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def frame_sizes(head: bytes) -> tuple[int, int]:
    """Read the sizes of a frame.

    Raises:
        ValueError: Beyond the bounds.
    """
    header_bytes, body_bytes = HEAD.unpack(head)
    if header_bytes > HEADER_BYTES_MAX or body_bytes > BODY_BYTES_MAX:
        raise ValueError("a frame is larger than allowed")
    return header_bytes, body_bytes
