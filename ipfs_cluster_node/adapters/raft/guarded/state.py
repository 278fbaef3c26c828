"""State of a guarded PySyncObj, and what it knows of the cluster."""

from collections.abc import Callable
from typing import Final

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.syncobj import _RAFT_STATE

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.elections import Elections
from ipfs_cluster_node.adapters.raft.guarded.library import NoSerializer, VoterNode
from ipfs_cluster_node.adapters.raft.guarded.outgoing import OutTransport
from ipfs_cluster_node.adapters.raft.inflights import Inflights
from ipfs_cluster_node.adapters.raft.journal import SegmentedJournal
from ipfs_cluster_node.adapters.raft.staleness import Staleness
from ipfs_cluster_node.adapters.raft.witness import Mark, Witness
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb

NEVER: Final = float("inf")
LEADER: Final = _RAFT_STATE.LEADER
APPEND_OVERHEAD_BYTES: Final = 64 * 1024
"""How much an append may be larger than the commands of one batch."""


class SyncObjState(SyncObj):  # type: ignore[misc]  # PySyncObj has no types.
    """PySyncObj as it is made here, and read."""

    current_term = SyncObj._getTerm
    """The term; under another name, and with no call in between."""

    def __init__(
        self,
        *,
        voter: VoterId,
        journal: SegmentedJournal,
        config: RaftConfig,
        witness: Witness,
        apply_entry: Callable[[int, bytes], None],
        on_snapshot_needed: Callable[[VoterId], None],
    ) -> None:
        """Start from the journal.

        `apply_entry` gets index and entry, in order, and must not raise (hazard H11).
        `on_snapshot_needed` gets a follower that needs entries which the log no longer has.
        """
        self._journal = journal
        self._voter = voter
        self._apply_entry = apply_entry
        self._votes: tuple[int, set[VoterId]] = (0, set())
        self._timeout_min = config.election_timeout_min.total_seconds()
        self._leader_gone = max(2 * self._timeout_min, config.election_timeout_max.total_seconds())
        self.elections = Elections(voter, election_timeout_min=self._timeout_min, now=now())
        self.staleness = Staleness(now())
        self._inflights = Inflights(config.window_bytes_max)
        self.witness = witness
        self._marks_told_at = -NEVER
        self._marks: list[pb.VoterMark] = []
        """What this round's appends say of the voters."""
        self._heartbeat_interval = config.heartbeat_interval.total_seconds()
        self._append_bytes_max = config.batch_bytes_max + APPEND_OVERHEAD_BYTES
        self._campaigns = False
        self._led_term = 0
        self._queued_change: int | None = None
        """Index of the last configuration entry when a change was queued; None once it is in the
        log."""
        self.needs_tick = False
        """Whether a leader's next tick has something to do, whenever the last one was."""
        self.learners: set[VoterId] = set()
        """Nodes that get the log and do not vote; known to the leader only."""
        self._up: set[VoterId] = set()
        """Voters and learners that messages can be sent to."""
        self.out = OutTransport()
        self.post, self.take_outbox = self.out.post, self.out.take_outbox
        self.take_appends = self.out.take_appends
        self._nodes: dict[VoterId, Node] = {}
        others = journal.voters() - {voter}
        super().__init__(
            self._node(voter),
            [self._node(other) for other in others],
            SyncObjConf(
                autoTick=False,
                useFork=False,
                commandsWaitLeader=False,
                dynamicMembershipChange=True,
                # Without it each commit index is sent in a message of its own, instead of with the
                # next append or heartbeat: twice the messages, steps and answers.
                appendEntriesUseBatch=True,
                appendEntriesPeriod=config.heartbeat_interval.total_seconds(),
                raftMinTimeout=config.election_timeout_min.total_seconds(),
                raftMaxTimeout=config.election_timeout_max.total_seconds(),
                # A leader that has heard no majority for this long steps down (hazard H13).
                leaderFallbackTimeout=config.fallback_timeout.total_seconds(),
                # No connections are made here, but PySyncObj compares it with the others.
                connectionTimeout=config.election_timeout_max.total_seconds(),
                journalFile=journal,
                logCompactionMinEntries=2**62,
                logCompactionMinTime=2**31,
            ),
            nodeClass=VoterNode,
            transport=self.out,
        )
        self.out.term = self._getTerm
        self._on_snapshot_needed = on_snapshot_needed
        self._SyncObj__serializer = NoSerializer()
        self._SyncObj__raftLastApplied = journal.first_index

    def skip_to(self, index: int) -> None:
        """Regard all up to `index` as applied: a snapshot holds it."""
        self._SyncObj__raftLastApplied = max(self.applied_index, index)
        self._SyncObj__raftCommitIndex: int = max(self.commit_index, index)

    @property
    def applied_index(self) -> int:
        """Highest index applied."""
        return int(self._SyncObj__raftLastApplied)

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        return int(self._SyncObj__raftCommitIndex)

    @property
    def others(self) -> frozenset[VoterId]:
        """The other voters in force."""
        return frozenset(VoterId(node.id) for node in self._SyncObj__otherNodes)

    @property
    def reachable(self) -> frozenset[VoterId]:
        """Voters and learners that the log is sent to, over a connection that is up."""
        return (self.others | self.learners) & self._up

    @property
    def age_seconds(self) -> float:
        """For how long what was committed may be missing here, on a node that does not lead."""
        return self.staleness.age(applied_index=self.applied_index, now=now())

    @property
    def can_change_voters(self) -> bool:
        """Whether the last change, and this term's no-op, are committed (hazard H12)."""
        noop = self._SyncObj__noopIDx
        return (
            self._queued_change is None
            and noop is not None
            and self.applied_index >= noop
            and self.commit_index >= self._journal.last_change_index()
        )

    @property
    def leads(self) -> bool:
        """Whether this node was elected and has not stepped down."""
        return bool(self._SyncObj__raftState == LEADER)

    @property
    def serves(self) -> bool:
        """Whether this node leads and has applied all that earlier leaders committed."""
        noop = self._SyncObj__noopIDx
        return noop is not None and self.leads and self.applied_index >= noop

    def known_leader(self) -> VoterId | None:
        """The leader to name to callers; None after a silence in which others may campaign."""
        known = self.leads or self.elections.unheard(now()) < self._leader_gone
        return self.leader_voter() if known else None

    def leader_voter(self) -> VoterId | None:
        """The leader of the newest term that this node knows, even if it is gone."""
        leader = self._getLeader()
        return None if leader is None else VoterId(leader.id)

    @property
    def lease_until(self) -> float:
        """Until when no other node can lead, by this node's clock; in the past if one may."""
        return self.elections.lease_until(self._journal.voters()) if self.serves else -NEVER

    def match_index(self, voter: VoterId) -> int:
        """Highest index up to which a follower is known to have this leader's log."""
        return int(self._SyncObj__raftMatchIndex.get(self._node(voter), 0))

    def claim(self) -> Mark:
        """How far this voter's log goes, as it says when it connects."""
        _, index, entry_term = self._journal[-1]
        return Mark(index=index, entry_term=entry_term, term=self._getTerm())

    def own_mark(self) -> Mark:
        """The part of this voter's log that can't be cut any longer, once it is synced."""
        index = min(self.commit_index, self._journal.last_index)
        return Mark(index, self._journal.term_at(index) or 0, self._getTerm())

    def _is_led(self) -> bool:
        """Whether there is a leader, perhaps this node, that an election would disturb."""
        if self.leads:
            return now() < self.elections.lease_until(self._journal.voters())
        return self.elections.hears_leader(now())

    def _node(self, voter: VoterId) -> Node:
        node = self._nodes.get(voter)
        if node is None:
            node = self._nodes[voter] = VoterNode(voter)
        return node
