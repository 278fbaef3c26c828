"""Frames between a node and its handler processes: what they hold at most."""

import pytest

from ipfs_cluster_node.adapters.worker.frames import (
    BODY_BYTES_MAX,
    HEAD,
    HEADER_BYTES_MAX,
    encode_frame,
    frame_sizes,
)


def test_a_frame_says_how_long_its_parts_are() -> None:
    frame = encode_frame({"kind": "result"}, b"body")
    header_bytes, body_bytes = frame_sizes(frame[: HEAD.size])
    assert len(frame) == HEAD.size + header_bytes + body_bytes
    assert frame.endswith(b"body")


def test_sizes_beyond_the_bounds_are_refused_before_anything_is_read() -> None:
    assert frame_sizes(HEAD.pack(HEADER_BYTES_MAX, BODY_BYTES_MAX)) == (
        HEADER_BYTES_MAX,
        BODY_BYTES_MAX,
    )
    for sizes in ((HEADER_BYTES_MAX + 1, 0), (0, BODY_BYTES_MAX + 1), (2**32 - 1, 2**32 - 1)):
        with pytest.raises(ValueError, match="larger than allowed"):
            frame_sizes(HEAD.pack(*sizes))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_header_holds_no_number_that_json_has_not(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode_frame({"ratio": number})
