"""What this node may answer: from its local log, as the leader, or not at all."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

from ipfs_cluster_node.access.context import current_reading
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.adapters.raft.snapshot import Position
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.codec.commands import encode_command
from ipfs_cluster_node.core.commands import CommandBody, LogCommand
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.errors import ClusterError, Leader, Reason
from ipfs_cluster_node.core.features import not_ready
from ipfs_cluster_node.core.ids import NodeId, node_id_of_voter
from ipfs_cluster_node.core.state import ClusterState

LEADER_RETRY_AFTER: Final = timedelta(milliseconds=300)


class Consensus:
    """This node's place in the cluster. While it has no log, it only knows the masters."""

    def __init__(
        self,
        node_id: NodeId,
        *,
        peers: PeerBook,
        now_ms: Callable[[], int],
    ) -> None:
        """Start without a log; `now_ms` dates commands."""
        self.node_id = node_id
        self._machine: ReplicatedStateMachine | None = None
        self.replica: Replica | None = None
        """None without a log. Either may happen while a call waits: read it once, after that."""
        self._peers = peers
        self.now_ms = now_ms
        self.removal: ClusterError | None = None

    def use_log(self, machine: ReplicatedStateMachine, replica: Replica) -> None:
        """Answer from this log from now on."""
        self._machine, self.replica = machine, replica

    def take_removal(self, error: ClusterError | None) -> None:
        """Take a master's answer that this node was removed; None once a leader hears it."""
        self.removal = error

    def drop_log(self) -> None:
        """Answer as a node without a log from now on."""
        leader = self.leader
        self._machine = self.replica = None
        self._peers.leader = None if leader == self.node_id else leader

    def require_replica(self) -> Replica:
        """This voter; raises NOT_LEADER on a node without a log."""
        if self.replica is None:
            raise ClusterError(Reason.NOT_LEADER, "this node has no log now; ask a master")
        return self.replica

    @property
    def leader(self) -> NodeId | None:
        """The leader, as far as this node knows."""
        return self.replica.leader if self.replica is not None else self._peers.leader

    @property
    def is_leader(self) -> bool:
        """Whether this node leads and serves."""
        return self.replica is not None and self.replica.is_leader

    @property
    def has_state(self) -> bool:
        """Whether anything of the cluster's log is applied here."""
        return self.known_state() is not None

    @property
    def knows_nobody(self) -> bool:
        """Whether this is a master that knows no other master: its list of them is lost."""
        return not (
            self.replica is None
            or self.has_state
            or self._peers.knows_other(self.node_id)
            or self.voters == {self.node_id}
        )

    @property
    def applied_index(self) -> int:
        """Highest index applied here."""
        return 0 if self.replica is None else self.replica.applied_index

    @property
    def term(self) -> int:
        """The current term; 0 on a node without a log."""
        return 0 if self.replica is None else self.replica.term

    @property
    def voters(self) -> frozenset[NodeId]:
        """The voters; empty on a node without a log."""
        if self.replica is None:
            return frozenset()
        return frozenset(map(node_id_of_voter, self.replica.voters))

    @property
    def committed_voters(self) -> frozenset[NodeId]:
        """The voters by the entries that are applied here; empty on a node without a log."""
        if self.replica is None:
            return frozenset()
        return frozenset(map(node_id_of_voter, self.replica.position().voters))

    @property
    def votes_alone(self) -> bool:
        """Whether this node elects itself: no other could refuse a copy of it."""
        return self.replica is not None and self.replica.votes_alone

    def state(self) -> ClusterState:
        """The state as this node has applied it; any master has one.

        Raises:
            ClusterError: NOT_LEADER on a node without a log; NO_LEADER on a master that has not
                heard of its cluster yet.
        """
        state = self.known_state()
        if state is None:
            raise self.not_leader() if self._machine is None else self._no_leader()
        return state

    def known_state(self) -> ClusterState | None:
        """The state as this node has applied it; None without a log, or if nothing is applied."""
        machine = self._machine
        return machine.state if machine is not None and machine.state.cluster_id else None

    def check_in_cluster(self) -> None:
        """Check that this node may decide by its own copy of the permissions.

        A leader's word counts more than that of the master which says that this node was removed:
        that one may have gone on alone, without a majority.

        Raises:
            ClusterError: NODE_REMOVED.
        """
        if self.removal is not None and self.leader is None:
            raise ClusterError(
                Reason.NODE_REMOVED,
                f"this node does not answer, as a master told it: {self.removal.message}",
            )

    def check_leads(self) -> None:
        """Raise NOT_LEADER or NO_LEADER unless this node leads."""
        self.leader_state()

    def leader_state(self) -> ClusterState:
        """The state, if this node leads; raises NOT_LEADER or NO_LEADER."""
        if not self.is_leader:
            raise self.not_leader()
        return self.state()

    def read_state(self) -> ClusterState:
        """The state for the current call: linearizable, or stale if it asked for that.

        Raises:
            ClusterError: NOT_LEADER or NO_LEADER, if a linearizable read is not possible here.
        """
        reading = current_reading()
        if self.replica is not None and self.replica.leads_for_sure:
            reading.age_ms = 0 if reading.stale else None
            return self.state()
        if reading.stale and self.replica is not None:
            reading.age_ms = self.replica.age_ms
            return self.state()
        raise self.not_leader()

    def freeze(self) -> tuple[Position, Callable[[], Iterator[bytes]]]:
        """The newest state, its index in the log, and what encodes it in a thread.

        Raises:
            ClusterError: NOT_LEADER or NO_LEADER, if a linearizable read is not possible here.
        """
        if self.replica is None or self._machine is None or not self.replica.leads_for_sure:
            raise self.not_leader()
        return self.replica.position(), self._machine.freeze()

    def not_leader(self) -> ClusterError:
        """The error of a node that does not lead: names the leader."""
        failed = None if self.replica is None else self.replica.failed
        if failed is not None:
            return failed
        leader = self.leader
        if leader is None or leader == self.node_id:
            return self._no_leader()
        endpoints = tuple(self._peers.endpoints(leader))
        return ClusterError(
            Reason.NOT_LEADER,
            f"this node does not lead; ask {leader} at {', '.join(endpoints) or 'its address'}",
            leader=Leader(leader, endpoints),
            retry_after=timedelta(0),
        )

    async def propose(
        self, body: CommandBody, *, caller: str = "", request_id: str = ""
    ) -> tuple[str, ...]:
        """Commit a command; returns the ids it created.

        Raises:
            ClusterError: The reason of its refusal, or what `Replica.propose` raises.
        """
        if self.replica is None:
            raise self.not_leader()
        lagging = not_ready(body, self._voter_versions)
        if lagging is not None:
            raise ClusterError(lagging.reason, lagging.message)
        command = LogCommand(at_ms=self.now_ms(), body=body, caller=caller, request_id=request_id)
        try:
            outcome = await self.replica.propose(encode_command(command))
        except ClusterError as error:
            if error.reason is Reason.NOT_LEADER:
                raise self.not_leader() from error
            raise
        if isinstance(outcome, Rejected):
            raise ClusterError(outcome.reason, outcome.message)
        assert isinstance(outcome, Accepted)
        return outcome.ids

    def _voter_versions(self) -> dict[NodeId, str]:
        """The version that each voter registered; empty if it has not."""
        members = self.leader_state().members
        nodes = {node_id: members.node(node_id) for node_id in self.voters}
        return {node_id: node.version if node else "" for node_id, node in nodes.items()}

    def _no_leader(self) -> ClusterError:
        return ClusterError(
            Reason.NO_LEADER,
            "no master leads now; try again in a moment",
            retry_after=LEADER_RETRY_AFTER,
        )
