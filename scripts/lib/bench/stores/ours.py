"""Three masters, through `ProposeConfig`."""

import itertools
from functools import cache
from pathlib import Path

from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.core.ids import NodeId
from scripts.lib.bench.stores import KEYS, MEMBERS, text_field

_requests = itertools.count()


class Ours:
    """A `Store`."""

    name = "ours"
    put_method = batch_method = "/ipfs_cluster_node.v1.MembershipService/ProposeConfig"

    async def start(self, root: Path) -> None:
        self._cluster = LocalCluster(root)
        await self._cluster.start(masters=MEMBERS, workers=0)
        profile = self._cluster.profile
        self.tls = ClientTls(
            profile.ca.read_bytes(), profile.certificate.read_bytes(), profile.key.read_bytes()
        )
        self.addresses = [node.address for node in self._cluster.nodes]
        self.hosts: list[NodeId | None] = [NodeId(node.node_id) for node in self._cluster.nodes]

    async def stop(self) -> None:
        await self._cluster.stop()

    async def leader(self) -> int:
        async with self._cluster.client() as client:
            return self._cluster.nodes.index(await self._cluster.leader(client))

    async def kill(self, member: int) -> None:
        await self._cluster.kill(self._cluster.nodes[member])

    async def restart(self, member: int) -> None:
        await self._cluster.start_node(self._cluster.nodes[member])

    def put(self, number: int) -> bytes:
        return _with_request_id(_change(number % KEYS, number))

    def batch(self, number: int, count: int) -> bytes:
        return _with_request_id(_changes(number % KEYS, count))

    def check(self, answer: bytes) -> None:
        assert answer == b""


def _with_request_id(changes: bytes) -> bytes:
    return text_field(1, b"r%d" % next(_requests)) + changes


def _change(key: int, value: int) -> bytes:
    return text_field(2, text_field(1, b"user.k%d" % key) + text_field(2, b"v%d" % value))


@cache
def _changes(first: int, count: int) -> bytes:
    return b"".join(_change((first + n) % KEYS, first + n) for n in range(count))
