"""A leader's membership, with the log, the voters and the keys in memory."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

import pytest

from ipfs_cluster_node.adapters.keys.certificates import pin_of
from ipfs_cluster_node.cluster import members as members_module
from ipfs_cluster_node.cluster.certificates.issuing import Issued
from ipfs_cluster_node.cluster.members import Members
from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.certificates import Authority
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import (
    Did,
    NodeId,
    VoterId,
    did_from_node_id,
    did_from_public_key,
    node_id_from_did,
    voter_id,
)
from ipfs_cluster_node.core.model import Liveness, Principal, Role
from tests.support.dispatch import MemoryConsensus
from tests.support.tls import make_ca
from tests.support.virtual_time import loop_clock, monotonic, now_ms, virtual_time
from tests.support.worlds import CLIENT, JOINER, MASTER, World

LEASE = 6.0
SECOND = timedelta(seconds=1)
LEADER = did_from_node_id(MASTER)
PEER = JOINER
"""Another master."""
ISSUED = Issued(certificate_pem="c", trust_bundle_pem="b", enrolment_endpoints=("e",), epoch=7)


class Leader(MemoryConsensus):
    """A leader whose log, voters and keys are this object; records what is done, in order."""

    def __init__(self) -> None:
        world = World()
        super().__init__(world.state)
        self.node_id = self.leader = MASTER
        self.now_ms = now_ms
        self.replica: Leader | None = self
        self.did: list[str] = []
        self.voters = frozenset({voter_id(MASTER, 1)})
        self.clock_off = False
        self.cannot: str = ""
        """What fails."""
        root = make_ca().certificate_pem.decode()
        self.root_pin = pin_of(root.encode())
        table = world.state.certificates
        table.authority = Authority(version=1, key_id="k", roots=("old", root), signer=1, epoch=3)
        world.state.settings.change({"node_lease": f"{LEASE:.0f}s"}, {})
        self.commit(
            c.RegisterNode(
                node_id=MASTER, endpoints=("m:1",), task_types=(), slot_count=0, version="1"
            )
        )
        world.state.members.put(
            Principal(
                did=did_from_node_id(PEER),
                name="peer",
                role=Role.MASTER,
                incarnation=4,
                enrolled_at_ms=1,
                liveness_at_ms=1,
            )
        )
        self.observations = Observations(monotonic)
        itself = cast("Any", self)
        self.members = Members(itself, self.observations, itself, clock=loop_clock())
        self.on_leadership(True)
        self.did.clear()
        self.proposed.clear()

    def on_leadership(self, leads: bool) -> None:  # noqa: FBT001
        self.observations.clear()
        self.members.on_leadership(leads)

    def add_master(self) -> NodeId:
        """A third one; it does not vote."""
        did = did_from_public_key(bytes([9]) * 32)
        self.committed.members.put(
            Principal(
                did=did,
                name="third",
                role=Role.MASTER,
                incarnation=5,
                enrolled_at_ms=1,
                liveness_at_ms=1,
            )
        )
        return node_id_from_did(did)

    def liveness(self, node_id: NodeId) -> Liveness:
        node = self.committed.members.node(node_id)
        assert node is not None
        return node.liveness

    async def propose(self, body: Any, **asked: str) -> tuple[str, ...]:
        self._does(type(body).__name__)
        return await super().propose(body, **asked)

    def _does(self, what: str) -> None:
        self.did.append(what)
        if what.startswith(self.cannot) and self.cannot:
            raise ClusterError(Reason.AUTHORITY_SEALED, f"{what} can't be")

    # As the certificates.

    def check_clock(self) -> None:
        if self.clock_off:
            raise ClusterError(Reason.CLOCK_OFF, "off")

    def check(self, did: Did, request: bytes, endpoints: tuple[str, ...]) -> None:
        self._does(f"check {did} {request!r} {','.join(endpoints)}"[:5])

    async def renew(self, _did: Did, _request: bytes) -> Issued:
        self._does("renew")
        return ISSUED

    async def seal_to_masters(self) -> None:
        self._does("seal")

    # As the replica.

    async def add_voter(self, voter: VoterId) -> None:
        self._does(f"add {voter}")
        self.voters |= {voter}

    async def remove_voter(self, voter: VoterId) -> None:
        self._does(f"remove {voter}")
        self.voters -= {voter}

    async def transfer_leadership(self, voter: VoterId) -> None:
        self._does(f"transfer {voter}")

    def not_leader(self) -> ClusterError:
        return ClusterError(Reason.NOT_LEADER, "another one leads")

    def check_removal(self, voter: VoterId) -> None:
        self._does(f"check {voter}")

    def successor(self) -> VoterId:
        return voter_id(PEER, 4)

    # In the tests' hands.

    def registration(self, node_id: NodeId, **changed: Any) -> c.RegisterNode:
        fields = {"endpoints": ("h:1",), "task_types": ("echo",), "slot_count": 2, "version": "2"}
        return c.RegisterNode(node_id=node_id, **(fields | changed))  # type: ignore[arg-type]

    async def token(self, **changed: Any) -> members_module.MintedToken:
        asked: dict[str, Any] = {
            "role": Role.WORKER,
            "ttl": None,
            "uses_max": 0,
            "addresses": (),
            "grant": "",
            "needs_approval": False,
            "caller": CLIENT,
            "request_id": "",
        }
        return await self.members.create_join_token(**(asked | changed))


def watched(
    test: Callable[[Leader], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    """Give a test a leader that watches the leases."""

    async def run() -> None:
        leader = Leader()
        watching = asyncio.create_task(leader.members.run())
        try:
            await test(leader)
            assert not watching.done(), "the watch must not end"
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    run.__name__ = test.__name__
    return virtual_time(run)


async def refused(work: Coroutine[Any, Any, Any]) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        await work
    return caught.value
