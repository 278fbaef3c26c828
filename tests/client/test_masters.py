"""A client learns the masters from any answer to `get_cluster_status`."""

from collections.abc import Sequence
from typing import Any

import pytest

from ipfs_cluster_node.adapters.net.channels import Target
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.v1 import authorization_pb2, enrolment_pb2, membership_pb2


class Naming(Connection):
    """A cluster whose status names these masters."""

    def __init__(self, *masters: enrolment_pb2.MasterEndpoint) -> None:
        super().__init__([("127.0.0.1:1", None)], None)
        self._named = masters

    async def unary(self, request: Any, **_: Any) -> Any:
        """Answer what the client asks when it learns."""
        if isinstance(request, membership_pb2.GetClusterStatusRequest):
            return membership_pb2.GetClusterStatusResponse(masters=self._named)
        return authorization_pb2.GetCallerResponse()


async def learned(connection: Connection) -> list[Sequence[Target]]:
    """What a client tells of the masters after its first answer."""
    told: list[Sequence[Target]] = []
    async with Client(connection, told.append) as client:
        await client.get_caller()
        assert client._learning is not None
        await client._learning
    return told


@pytest.mark.asyncio
async def test_every_address_of_every_master_is_learned() -> None:
    endpoints = [["a:1", "b:1"], ["c:1"]]
    masters = [
        enrolment_pb2.MasterEndpoint(node_id=str(n), endpoints=each)
        for n, each in enumerate(endpoints)
    ]
    connection = Naming(*masters)
    targets = [("a:1", "0"), ("b:1", "0"), ("c:1", "1")]
    assert await learned(connection) == [targets]
    assert list(connection.targets) == [("127.0.0.1:1", None), *targets]


@pytest.mark.asyncio
async def test_an_older_master_that_names_none_takes_none_away() -> None:
    # Otherwise the profile would be written without an address.
    connection = Naming()
    assert await learned(connection) == []
    assert list(connection.targets) == [("127.0.0.1:1", None)]
