"""A master that registers can sign before it votes."""

from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.cluster.members import Members
from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.core.commands import RegisterNode
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, VoterId, voter_id
from ipfs_cluster_node.core.model import Role
from tests.support.virtual_time import loop_clock, monotonic

NODE = NodeId("12D3KooWnode")


class Order:
    """Records what the registration of a master does, in order; a real process can't show it."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.voters: frozenset[VoterId] = frozenset()
        self.refused: ClusterError | None = None

    async def propose(self, body: object) -> None:
        self.did.append(type(body).__name__)

    async def seal_to_masters(self) -> None:
        self.did.append("seal")
        if self.refused is not None:
            raise self.refused

    async def add_voter(self, _voter: VoterId) -> None:
        self.did.append("vote")

    async def register(self) -> None:
        member = SimpleNamespace(role=Role.MASTER, incarnation=1)
        state = SimpleNamespace(
            members=SimpleNamespace(node=lambda _node_id: member),
        )
        consensus: Any = SimpleNamespace(
            leader_state=lambda: state, propose=self.propose, replica=self
        )
        certificates: Any = self
        members = Members(consensus, Observations(monotonic), certificates, clock=loop_clock())
        members.node_lease = lambda: None  # type: ignore[method-assign,assignment,return-value]
        body = RegisterNode(
            node_id=NODE, endpoints=("127.0.0.1:1",), task_types=(), slot_count=0, version="1"
        )
        await members.register_node(body, incarnation=1)


@pytest.mark.asyncio
async def test_the_keys_are_sealed_to_a_master_before_it_votes() -> None:
    """It could lead within the second before the keys reached it, and could sign nothing."""
    order = Order()
    await order.register()
    assert order.did == ["RegisterNode", "seal", "vote"]


@pytest.mark.asyncio
async def test_a_master_to_which_the_keys_cannot_be_sealed_does_not_vote() -> None:
    order = Order()
    order.refused = ClusterError(Reason.AUTHORITY_SEALED, "not here")
    with pytest.raises(ClusterError):
        await order.register()
    assert order.did == ["RegisterNode", "seal"]


@pytest.mark.asyncio
async def test_a_voter_that_is_back_waits_for_no_keys() -> None:
    """Otherwise masters that are back could not register while the leader has no keys itself."""
    order = Order()
    order.voters = frozenset({voter_id(NODE, 1)})
    await order.register()
    assert order.did == ["RegisterNode", "vote"]
