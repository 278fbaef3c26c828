"""Refused messages of an upload: no file may lack bytes unnoticed."""

from collections.abc import AsyncIterator

import pytest

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.services.content import DATA_BYTES_MAX, _chunks
from ipfs_cluster_node.v1 import content_pb2 as pb

OF_A_NEWER_CLIENT = pb.AddContentRequest.FromString(b"\xd2\x3e\x03new")
"""With field 1002, which this release has not."""


async def _sent(*messages: pb.AddContentRequest) -> AsyncIterator[pb.AddContentRequest]:
    for message in messages:
        yield message


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (OF_A_NEWER_CLIENT, Reason.INVALID_ARGUMENT),
        (pb.AddContentRequest(), Reason.INVALID_ARGUMENT),
        (pb.AddContentRequest(header=pb.AddContentHeader()), Reason.INVALID_ARGUMENT),
        (pb.AddContentRequest(data=bytes(DATA_BYTES_MAX + 1)), Reason.PAYLOAD_TOO_LARGE),
    ],
    ids=["of a newer client", "empty", "a second header", "too large"],
)
async def test_what_is_no_data_ends_an_upload(
    message: pb.AddContentRequest, reason: Reason
) -> None:
    read = _chunks(_sent(pb.AddContentRequest(data=b"x"), message), None)
    assert await anext(read) == b"x"
    with pytest.raises(ClusterError) as refused:
        await anext(read)
    assert refused.value.reason is reason
