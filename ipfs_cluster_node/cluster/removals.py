"""How members leave: removed by others, or at their own request; and who leads then."""

import asyncio

from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.content.last_holders import check_not_last_holder
from ipfs_cluster_node.core.commands import RemoveNode
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did, NodeId, node_id_of_voter, voter_id
from ipfs_cluster_node.core.model import Role


class Removals:
    """Removes nodes, and transfers leadership. The leader's side."""

    def __init__(self, consensus: Consensus) -> None:
        """Answer while this node leads."""
        self._consensus = consensus
        self._removing = asyncio.Lock()

    async def remove_node(
        self, node_id: NodeId, *, caller: Did, request_id: str, lose_files: bool = False
    ) -> None:
        """Remove a node; a master stops voting first.

        Unless `lose_files`, it is refused if files would lose their last holder. One removal runs
        at a time: two concurrent ones could each rely on the other's copy.
        """
        async with self._removing:
            state = self._consensus.leader_state()
            if not lose_files:
                await check_not_last_holder(state, node_id)
            node = state.members.node(node_id)
            replica = self._consensus.replica
            if node is not None and node.role is Role.MASTER and replica is not None:
                await replica.remove_voter(voter_id(node_id, node.incarnation))
            await self._consensus.propose(
                RemoveNode(node_id=node_id), caller=caller, request_id=request_id
            )

    async def transfer_leadership(self, target: NodeId | None, *, source: NodeId | None) -> NodeId:
        """Transfer leadership to `target`, or to the master with the most of the log; returns it.

        With a `source`, and no target, only if that one leads.
        """
        state = self._consensus.leader_state()
        replica, here = self._consensus.replica, self._consensus.node_id
        assert replica is not None
        if target == here or (target is None and source not in (None, here)):
            if not replica.leads_for_sure:
                raise self._consensus.not_leader()
            return here  # Already done.
        if target is None:
            voter = replica.successor()
        else:
            master = state.members.node(target)
            voter = voter_id(target, 0 if master is None else master.incarnation)
        await replica.transfer_leadership(voter)
        return node_id_of_voter(voter)

    async def leave_cluster(
        self, node_id: NodeId, *, request_id: str, lose_files: bool, check_only: bool
    ) -> None:
        """Remove a node at its own request; this one, while it leads, hands leadership over first.

        With `check_only` only say whether it would be removed.

        Raises:
            ClusterError: NOT_LEADER, which names the next leader, from the one that left its place;
                and those of `remove_node` and `transfer_leadership`.
        """
        state = self._consensus.leader_state()
        node, replica = state.members.node(node_id), self._consensus.replica
        if node is None:
            raise ClusterError(Reason.MEMBER_NOT_FOUND, "this node is not a member")
        leads = node_id == self._consensus.node_id
        if leads or check_only:
            if not lose_files:
                await check_not_last_holder(state, node_id)
            voter = voter_id(node_id, node.incarnation)
            if node.role is Role.MASTER and replica is not None and voter in replica.voters:
                replica.check_removal(voter)
        if check_only:
            return
        if leads:
            await self.transfer_leadership(None, source=node_id)
            raise self._consensus.not_leader()
        await self.remove_node(
            node_id, caller=node.did, request_id=request_id, lose_files=lose_files
        )
