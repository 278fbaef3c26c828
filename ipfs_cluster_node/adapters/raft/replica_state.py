"""What a replica knows, and how it takes a command."""

import asyncio
from collections.abc import Callable

from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.outages import Outage
from ipfs_cluster_node.adapters.raft.proposals import Proposal
from ipfs_cluster_node.adapters.raft.snapshot import Position
from ipfs_cluster_node.adapters.raft.wake import Wake
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, VoterId


class ReplicaState:
    """An engine, and whether it can be used now."""

    def __init__(self, engine: Engine, config: RaftConfig) -> None:
        """Take an open engine, which is replaced after an outage of its disk."""
        self.engine, self.voter = engine, engine.voter
        self._config = config
        self._wake = Wake()
        """Set to have the loop take another step at once."""
        self._stopping = False
        self.outage: Outage | None = None
        """While the log can't be written."""
        self.snapshot_outage: Outage | None = None
        """While there is no room for a snapshot: the log goes on, and grows."""
        self._damage: LogDamagedError | None = None
        """Why another voter refuses this one's log."""

    @property
    def on_leadership(self) -> Callable[[bool, int], None]:
        """Called in the loop with whether this node leads now, and the term, when that changes."""
        return self.engine.on_leadership

    @on_leadership.setter
    def on_leadership(self, listener: Callable[[bool, int], None]) -> None:
        self.engine.on_leadership = listener

    @property
    def failed(self) -> ClusterError | None:
        """Why this node does not take part in consensus now; None if it does."""
        if self.outage is not None:
            return self.outage.error()
        if self._damage is not None:
            return self._damage
        if self._stopping:
            return ClusterError(Reason.SHUTTING_DOWN, "this master is stopping; ask another one")
        return None

    @property
    def is_leader(self) -> bool:
        """Whether this node leads, as far as it knows, and has applied all of earlier terms."""
        return self.failed is None and self.engine.is_leader

    @property
    def leads_for_sure(self) -> bool:
        """Whether no other node can lead now, so that a read here is linearizable."""
        return self.failed is None and self.engine.leads_for_sure

    @property
    def age_ms(self) -> int:
        """Milliseconds for which committed entries may have been missing here, on a follower."""
        return round(1000 * self.engine.age_seconds)

    @property
    def leader(self) -> NodeId | None:
        """The leader, as far as this node knows."""
        return self.engine.leader

    @property
    def term(self) -> int:
        """The current term."""
        return self.engine.term

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        return self.engine.commit_index

    @property
    def applied_index(self) -> int:
        """Highest index applied."""
        return self.engine.applied_index

    def position(self) -> Position:
        """The place in the log that the present state is from."""
        return self.engine.position()

    def term_at(self, index: int) -> int | None:
        """The term of an entry; None if the log does not have it, or no longer."""
        return self.engine.journal.term_at(index)

    @property
    def voters(self) -> frozenset[VoterId]:
        """The voters of the newest configuration in the log."""
        return self.engine.voters

    @property
    def votes_alone(self) -> bool:
        """Whether there is no other voter."""
        return self.voters == {self.voter}

    async def propose(self, command: bytes) -> object:
        """Commit a command and return the result of the state machine here.

        Waiting commands are committed together: one log entry, one sync, one round.

        Raises:
            ClusterError: NOT_LEADER, NO_LEADER, OVERLOADED, PAYLOAD_TOO_LARGE and
                LOG_STORAGE_FAILED if it certainly was not committed; UNKNOWN_OUTCOME otherwise.
        """
        self._check()
        result: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def on_done(outcome: object) -> None:
            if result.done():
                return
            if isinstance(outcome, ClusterError):
                # A caller whose command was not proposed yet is told why this node does not lead.
                lost = outcome.reason is Reason.NO_LEADER and self.failed
                result.set_exception(lost or outcome)
            else:
                result.set_result(outcome)

        self.engine.propose(Proposal(command, on_done, given_up=result.done))
        if not self.engine.proposals.under_way:  # Otherwise the step that ends the batch takes it.
            self._wake.set()
        return await result

    def _check(self) -> None:
        failed = self.failed
        if failed is not None:
            raise failed

    def _check_damage(self) -> None:
        if self._damage is not None:
            raise self._damage
