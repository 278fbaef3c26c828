"""PySyncObj with its holes closed; the one file that names its private members.

`H1` to `H26` are the hazards of docs/consensus.md. Everything here runs in the loop's thread.
"""

import logging
import random
from collections.abc import Callable, Iterable
from typing import Any, Final

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.serializer import SERIALIZER_STATE
from pysyncobj.syncobj import _RAFT_STATE
from pysyncobj.transport import Transport

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.elections import Elections
from ipfs_cluster_node.adapters.raft.errors import ConsensusViolationError
from ipfs_cluster_node.adapters.raft.freshness import Freshness
from ipfs_cluster_node.adapters.raft.journal import (
    MEMBERSHIP,
    REGULAR,
    Entry,
    SegmentedJournal,
    change_of,
)
from ipfs_cluster_node.adapters.raft.messages import Message, encode_message
from ipfs_cluster_node.adapters.raft.windows import Windows
from ipfs_cluster_node.adapters.raft.witness import Mark, Witness
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

PRIVATE_MEMBERS: Final = (
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__serializer",
    "_SyncObj__otherNodes",
    "_SyncObj__readonlyNodes",
    "_SyncObj__raftLeader",
    "_SyncObj__noopIDx",
    "_SyncObj__connectedNodes",
    "_SyncObj__newAppendEntriesTime",
)
"""Attributes of PySyncObj 0.3.17 that are read or set here; a test checks that they exist."""
PRIVATE_METHODS: Final = (
    "_SyncObj__applyLogEntries",
    "_SyncObj__doApplyCommand",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__parseChangeClusterRequest",
    "_SyncObj__updateClusterConfiguration",
    "_SyncObj__setCurrentTerm",
    "_SyncObj__setState",
)
"""Methods of PySyncObj 0.3.17 that are replaced or called here; a test checks that they exist."""

NEVER: Final = float("inf")
PRE_VOTE_RETRY_MIN: Final = 0.25
"""Shortest pause between pre-vote rounds, as a share of `election_timeout_min`; the longest is
twice that."""
APPLY_SECONDS_MAX: Final = 0.05
"""Of one tick; the next one goes on."""
NANOSECONDS: Final = 1_000_000_000
COUNTED: Final = ("response_vote", "next_node_idx", "pre_vote_granted", "stale_term")
"""What only voters may send."""
ASKING: Final = ("append_entries", "request_vote", "pre_vote")
"""What of an older term is answered with the newer one."""
COMMITTED_TRUNCATION: Final = "a leader contradicts a committed entry"


class _NoPickle:
    """Stands where PySyncObj would pickle or unpickle (H17): nothing here needs it."""

    @staticmethod
    def loads(_data: bytes) -> object:
        raise ConsensusViolationError("a peer's or a file's bytes reached pickle")

    dumps = loads


pysyncobj.syncobj.pickle = _NoPickle
pysyncobj.syncobj.createJournal = lambda journal: journal
pysyncobj.syncobj.monotonicTime = now
pysyncobj.syncobj.PIPE_NOTIFIER_ENABLED = False  # Nothing waits in its poller.
pysyncobj.syncobj.createPoller = lambda _kind: _NoPoller()


class _NoPoller:
    """Stands for PySyncObj's poller: who drives it waits elsewhere."""

    def poll(self, timeout: float) -> None:
        """Nothing to wait for."""


class _NoSerializer:
    """Stands for PySyncObj's own snapshots (H5, H6, H8, H16, H18 to H20): ours replace them."""

    def checkSerializing(self) -> tuple[int, None]:
        """Never busy."""
        return SERIALIZER_STATE.NOT_SERIALIZING, None


class OutTransport(Transport):  # type: ignore[misc]  # PySyncObj has no types.
    """Gathers what a tick wants to send; the replica sends it after the sync."""

    ready = True

    def __init__(self) -> None:
        """Start empty."""
        super().__init__(None, None, [])
        self.outbox: list[tuple[VoterId, pb.RaftMessage]] = []
        self.term: Callable[[], int] = lambda: 0
        self.verified_next: int | None = None
        """While an append is handled: what may be acknowledged (H3)."""
        self.answered_sent_at_ns = 0
        """While an append is handled: its stamp, which the answer repeats."""
        self.transfer = False
        """Whether the candidacy that begins was asked for by the leader."""

    def tryGetReady(self) -> None:
        """Nothing to wait for."""

    def addNode(self, node: Node) -> None:
        """Nothing to do: links follow the configuration."""

    def dropNode(self, node: Node) -> None:
        """Nothing to do: links follow the configuration."""

    def destroy(self) -> None:
        """Nothing is held here."""

    def send(self, node: Node, message: Message) -> bool:
        """Queue a message until the tick's sync is done."""
        if message["type"] == "next_node_idx" and message["success"]:
            if self.verified_next is None:
                return True  # Only a verified append is acknowledged (H3, H6).
            message = {**message, "next_node_idx": self.verified_next}
        encoded = encode_message(message, self.term())
        if encoded is not None:
            match encoded.WhichOneof("kind"):
                case "append_entries":
                    encoded.append_entries.sent_at_ns = int(now() * NANOSECONDS)
                    encoded.append_entries.marks.extend(message["marks"])
                case "append_result":
                    encoded.append_result.sent_at_ns = self.answered_sent_at_ns
                case "request_vote":
                    encoded.request_vote.transfer = self.transfer
            self.post(VoterId(node.id), encoded)
        return True

    def take_appends(self) -> list[tuple[VoterId, pb.RaftMessage]]:
        """Take a leader's entries out of the queue: they wait for no sync."""
        appends = [each for each in self.outbox if each[1].WhichOneof("kind") == "append_entries"]
        if appends:
            self.outbox = [
                each for each in self.outbox if each[1].WhichOneof("kind") != "append_entries"
            ]
        return appends

    def take_outbox(self) -> list[tuple[VoterId, pb.RaftMessage]]:
        """Take all that is queued."""
        taken, self.outbox = self.outbox, []
        return taken

    def post(self, voter: VoterId, message: pb.RaftMessage) -> None:
        """Queue a message of our own."""
        self.outbox.append((voter, message))


class GuardedSyncObj(SyncObj):  # type: ignore[misc]  # PySyncObj has no types.
    """PySyncObj, driven by `doTick`, fed through `receive`."""

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
        """Start from the journal; `apply_entry(index, command)` must not raise (H11)."""
        self._journal = journal
        self._voter = voter
        self._apply_entry = apply_entry
        self._votes: tuple[int, set[VoterId]] = (0, set())
        self._timeout_min = config.election_timeout_min.total_seconds()
        self._leader_gone = max(2 * self._timeout_min, config.election_timeout_max.total_seconds())
        self.elections = Elections(voter, election_timeout_min=self._timeout_min, now=now())
        self.freshness = Freshness(now())
        self._windows = Windows(config.window_bytes_max)
        self.witness = witness
        self._marks_told_at = -NEVER
        self._marks: list[pb.VoterMark] = []
        """What the appends of this round tell of the voters."""
        self._heartbeat_interval = config.heartbeat_interval.total_seconds()
        self._append_bytes_max = config.batch_bytes_max + 64 * 1024
        self._campaigns = False
        self._led_term = 0
        self._queued_change: int | None = None
        """The last configuration entry as a change was queued that is not in the log yet."""
        self.learners: set[VoterId] = set()
        """Who gets the log and does not vote; known to the leader only."""
        self._up: set[VoterId] = set()
        """To whom messages can be sent."""
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
                # Else each commit index is sent for itself, and not with the next append or
                # heartbeat: as many messages, steps and answers again. `tick` sends what is new.
                appendEntriesUseBatch=True,
                appendEntriesPeriod=config.heartbeat_interval.total_seconds(),
                raftMinTimeout=config.election_timeout_min.total_seconds(),
                raftMaxTimeout=config.election_timeout_max.total_seconds(),
                # A leader that hears no majority for so long steps down (H13).
                leaderFallbackTimeout=config.fallback_timeout.total_seconds(),
                # Of connections that are never made here; PySyncObj compares it all the same.
                connectionTimeout=config.election_timeout_max.total_seconds(),
                journalFile=journal,
                logCompactionMinEntries=2**62,
                logCompactionMinTime=2**31,
            ),
            nodeClass=Node,
            transport=self.out,
        )
        self.out.term = self._getTerm
        self._on_snapshot_needed = on_snapshot_needed
        self._SyncObj__serializer = _NoSerializer()
        self._SyncObj__raftLastApplied = journal.first_index

    def skip_to(self, index: int) -> None:
        """Take the state up to `index` as applied: a snapshot holds it."""
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
        return self.freshness.age(applied_index=self.applied_index, now=now())

    @property
    def can_change_voters(self) -> bool:
        """Whether the last change, and this term's no-op, are committed (H12)."""
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
        return bool(self._isLeader())

    @property
    def serves(self) -> bool:
        """Whether this node leads and has applied all that earlier leaders committed."""
        noop = self._SyncObj__noopIDx
        return self.leads and noop is not None and self.applied_index >= noop

    def known_leader(self) -> VoterId | None:
        """The leader, for callers; nobody, once everybody may have stood since it was heard."""
        known = self.leads or self.elections.unheard(now()) < self._leader_gone
        return self.leader_voter() if known else None

    def arrived(self, sender: VoterId) -> None:
        """Something of a voter is there, and waits to be received."""
        if sender == self.leader_voter():
            self.elections.leader_arrived(now())

    def leader_voter(self) -> VoterId | None:
        """Who leads the newest term that this node knows, or led it."""
        leader = self._getLeader()
        return None if leader is None else VoterId(leader.id)

    @property
    def lease_until(self) -> float:
        """Until when this node is certainly the only leader; before now if it may not be."""
        return self.elections.lease_until(self._journal.voters()) if self.serves else -NEVER

    def match_index(self, voter: VoterId) -> int:
        """Up to where a follower is known to have this leader's log."""
        return int(self._SyncObj__raftMatchIndex.get(self._node(voter), 0))

    def tick(self) -> None:
        """One step of PySyncObj; a candidacy is asked for first (H14)."""
        if not self.leads:
            self._hold_candidacy()
        last = self._journal.last_index
        self.doTick(0)
        leads = self.leads
        if leads and self._journal.last_index > last:
            self._SyncObj__sendAppendEntries()
        self._campaigns = self.out.transfer = False
        if leads:
            self._witness_followers()
        if not leads or self._journal.last_change_index() != self._queued_change:
            self._queued_change = None
        self._watch_leading()

    def _witness_followers(self) -> None:
        """What a follower acknowledged of what is committed, it has for good (H26)."""
        commit_index, witness = self.commit_index, self.witness
        for node, match_index in self._SyncObj__raftMatchIndex.items():
            index, voter = min(match_index, commit_index), VoterId(node.id)
            if index > witness.of(voter).index:
                witness.saw_entry(voter, index, self._journal.term_at(index))

    def claim(self) -> Mark:
        """How far this voter's log goes."""
        _, index, entry_term = self._journal[-1]
        return Mark(index=index, entry_term=entry_term, term=self._getTerm())

    def own_mark(self) -> Mark:
        """How much of this voter's log can never go again, once all of it is synced."""
        index = min(self.commit_index, self._journal.last_index)
        return Mark(index, self._journal.term_at(index) or 0, self._getTerm())

    def admitted(self, voter: VoterId, claim: Mark) -> None:
        """A voter connected, with this much of a log; it may have acknowledged more than that."""
        match_index = self._SyncObj__raftMatchIndex
        node = self._node(voter)
        if self.leads and match_index.get(node, 0) > claim.index:
            match_index[node] = claim.index

    def append(self, entry: bytes) -> None:
        """Take an entry into the log, and send it; on the leader, right behind a tick."""
        self._applyCommand(entry, None, REGULAR[0])
        self._checkCommandsToApply()
        self._SyncObj__sendAppendEntries()

    def _hold_candidacy(self) -> None:
        moment = now()
        voters = self._journal.voters()
        if self._voter not in voters:
            self._SyncObj__raftElectionDeadline = NEVER  # H21.
        elif self._SyncObj__raftElectionDeadline == NEVER:
            self._SyncObj__raftElectionDeadline = moment + self._timeout_min * (1 + _chance())
        elif self._SyncObj__raftElectionDeadline < moment and not self._campaigns:
            pause = PRE_VOTE_RETRY_MIN * self._timeout_min * (1 + _chance())
            self._SyncObj__raftElectionDeadline = moment + pause
            if not self.elections.asks:  # Once, however long it lasts.
                log.info("no leader is heard, asks for votes", extra={"term": self._getTerm()})
            last = self._journal.last_index
            ask = pb.RaftMessage(
                term=self._getTerm(),
                pre_vote=pb.PreVote(
                    last_log_index=last,
                    last_log_term=self._journal.term_at(last) or 0,
                    round=self.elections.begin_pre_vote(),
                ),
            )
            for voter in sorted(self.others):
                self.out.post(voter, ask)
            self._consider_candidacy()

    def _consider_candidacy(self) -> None:
        if not self.leads and self.elections.may_campaign(self._journal.voters()):
            self._campaign()

    def _campaign(self) -> None:
        self._campaigns = True
        self._SyncObj__raftElectionDeadline = 0.0

    def _watch_leading(self) -> None:
        if self.leads and self._led_term != self._getTerm():
            self._led_term = self._getTerm()
            self.elections.begin_leading()
            self._windows.clear()
        for learner in list(self.learners):
            if not self.leads or learner in self.others:
                self.drop_learner(learner)

    def change_voters(self, operation: str, voter: VoterId) -> None:
        """Queue a change of the configuration, which `can_change_voters` allows."""
        self._queued_change = self._journal.last_change_index()
        self._applyCommand(f"{operation} {voter}".encode(), None, MEMBERSHIP[0])

    def add_learner(self, learner: VoterId) -> None:
        """Send the log to a node that does not vote; on the leader, while it is connected."""
        if learner not in self.learners:
            self.learners.add(learner)
            self.out._onReadonlyNodeConnected(self._node(learner))

    def drop_learner(self, learner: VoterId) -> None:
        """Send no more to a learner: it is gone, or votes now."""
        self.learners.discard(learner)
        if learner in self.others:
            self._SyncObj__readonlyNodes.discard(self._node(learner))
        else:
            self.out._onReadonlyNodeDisconnected(self._node(learner))
            if learner in self._up:
                # Its link stands, and nobody tells so again: as a voter it would get no entries.
                self.out._onNodeConnected(self._node(learner))

    def hand_over(self, voter: VoterId) -> None:
        """Ask a follower that has the whole log to campaign at once."""
        self.elections.hand_over()
        self.out.post(voter, pb.RaftMessage(term=self._getTerm(), timeout_now=pb.TimeoutNow()))

    def step_down(self, term: int | None = None) -> None:
        """Lead no more; with a term, take that newer one."""
        if term is not None:
            self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(_RAFT_STATE.FOLLOWER)
        self._SyncObj__raftLeader = None
        self._watch_leading()

    def connected(self, voter: VoterId, *, up: bool) -> None:
        """Tell whether messages can be sent to a voter or learner."""
        (self._up.add if up else self._up.discard)(voter)
        self._windows.forget(voter)
        if voter in self.learners:
            if not up:
                self.drop_learner(voter)
        elif up:
            self.out._onNodeConnected(self._node(voter))
        else:
            self.out._onNodeDisconnected(self._node(voter))

    def use_voters(self, voters: Iterable[VoterId]) -> None:
        """Take the configuration of an installed snapshot."""
        self._SyncObj__updateClusterConfiguration(
            [self._node(voter) for voter in voters if voter != self._voter]
        )

    def receive(self, sender: VoterId, message: Message) -> None:
        """Take a peer's message, unless a guard drops it."""
        kind, term, newest = message["type"], message["term"], self._getTerm()
        votes, learns = sender in self.others, sender in self.learners
        if kind in COUNTED and not (votes or (learns and kind == "next_node_idx")):
            # Only voters count (H2, H4, H22), but for a learner's progress. A leader or candidate
            # that our configuration does not name yet is heard all the same: ours may be the old
            # one. A removed master does not come so far, since it is refused at the door.
            return
        if kind in ASKING and term < newest:
            # Else who has a newer term could never follow again (H14).
            self.out.post(sender, pb.RaftMessage(term=newest, stale_term=pb.StaleTerm()))
            return
        node = self._node(sender)
        if votes or learns:
            self.witness.saw_term(sender, term)
        match kind:
            case "response_vote":
                self._receive_vote(sender, node, message)
            case "next_node_idx" if term == newest and self.leads:
                sent_at = message["sent_at_ns"] / NANOSECONDS
                self.elections.confirm(sender, sent_at, now())
                self._receive_result(node, message)
            case "append_entries":
                self.elections.heard_leader(now())
                self.out.answered_sent_at_ns = message["sent_at_ns"]
                self._receive_append(node, message)
                self.witness.told(message["marks"])
            case "request_vote" if message["transfer"] or not self._is_led():
                self.out._onMessageReceived(node, message)
            case "pre_vote" if not self._is_led():
                self._receive_pre_vote(sender, message)
            case "pre_vote_granted":
                self.elections.take_grant(sender, message["round"])
                self._consider_candidacy()
            case "stale_term" if term > newest:
                self.step_down(term)
            case "timeout_now" if term == newest and sender == self.leader_voter():
                self._campaign()
                self.out.transfer = True
        self._watch_leading()

    def _is_led(self) -> bool:
        """Whether there is a leader that must not be disturbed, perhaps this node itself."""
        if self.leads:
            return now() < self.elections.lease_until(self._journal.voters())
        return self.elections.hears_leader(now())

    def _receive_pre_vote(self, sender: VoterId, message: Message) -> None:
        last = self._journal.last_index
        ours = (self._journal.term_at(last) or 0, last)
        if (message["last_log_term"], message["last_log_index"]) >= ours:
            granted = pb.PreVoteGranted(round=message["round"])
            self.out.post(sender, pb.RaftMessage(term=self._getTerm(), pre_vote_granted=granted))

    def installed(self, voter: VoterId, index: int) -> None:
        """A follower has loaded the snapshot at `index`."""
        if self.leads and (voter in self.others or voter in self.learners):
            self._receive_result(
                self._node(voter),
                {
                    "type": "next_node_idx",
                    "next_node_idx": index + 1,
                    "reset": True,
                    "success": True,
                },
            )

    def _receive_vote(self, sender: VoterId, node: Node, message: Message) -> None:
        # One vote a voter and term (H4).
        if self._votes[0] != message["term"]:
            self._votes = (message["term"], set())
        if sender not in self._votes[1]:
            self._votes[1].add(sender)
            self.out._onMessageReceived(node, message)

    def _receive_result(self, node: Node, message: Message) -> None:
        if message["next_node_idx"] - 1 > self._journal.last_index:
            return  # Nobody can hold more of this term than its leader.
        voter = VoterId(node.id)
        if message["reset"] and not message["success"]:
            if self._windows.is_old(voter, message["sent_at_ns"]):
                message = {**message, "reset": False}  # What it lacks is under way.
            else:
                self._windows.begin_anew(voter, at_ns=int(now() * NANOSECONDS))
        next_index = self._SyncObj__raftNextIndex
        before = next_index.get(node, 0)
        self.out._onMessageReceived(node, message)
        if message["success"] and not message["reset"]:
            # What is in flight must not be sent again (H24).
            next_index[node] = max(before, next_index.get(node, 0))
        self._windows.acknowledged(voter, self.match_index(voter))
        lacks = self._journal.first_index < next_index.get(node, 0) <= self._journal.last_index
        if lacks and self._windows.has_room(voter):
            self._SyncObj__newAppendEntriesTime: float = 0.0  # The next tick sends more.

    def _receive_append(self, node: Node, message: Message) -> None:
        self.out.verified_next = None
        self.freshness.told(message["commit_index"], applied_index=self.applied_index, now=now())
        if "prevLogIdx" not in message:
            # A snapshot will follow; nothing is verified yet (H5). The leader must know all the
            # same that it is heard: a long transfer would cost it its quorum.
            self.out._onMessageReceived(node, {**message, "commit_index": 0})
            heard = {"next_node_idx": self._journal.last_index + 1, "reset": False}
            self.out.send(node, {"type": "next_node_idx", "success": False, **heard})
            return
        stripped, verified = self._strip(message)
        if verified is None:
            self.out._onMessageReceived(node, {**stripped, "commit_index": 0})
            return
        self.out.verified_next = verified + 1
        commit_index = min(message["commit_index"], verified)
        self.out._onMessageReceived(node, {**stripped, "commit_index": commit_index})
        self.out.verified_next = None
        # A leader has, durably, all that it calls committed.
        self.witness.saw_entry(VoterId(node.id), commit_index, self._journal.term_at(commit_index))

    def _strip(self, message: Message) -> tuple[Message, int | None]:
        """Leave only what is new: what agrees is never cut (H1).

        Returns the message for PySyncObj, and the index up to which the log then agrees with the
        leader's; None if the entry before does not agree.
        """
        journal = self._journal
        previous, entries = message["prevLogIdx"], message["entries"]
        verified: int = max(previous, journal.first_index)  # A snapshot agrees: it is committed.
        if previous >= journal.first_index and journal.term_at(previous) != message["prevLogTerm"]:
            return {**message, "entries": []}, None
        for position, (_, index, term) in enumerate(entries):
            if index <= journal.first_index:
                continue
            if journal.term_at(index) == term:
                verified = index
                continue
            if index <= self.commit_index:
                raise ConsensusViolationError(f"{COMMITTED_TRUNCATION} at index {index}")
            new = entries[position:]
            return (
                {
                    **message,
                    "prevLogIdx": index - 1,
                    "prevLogTerm": journal.term_at(index - 1),
                    "entries": new,
                },
                new[-1][1],
            )
        # All there already: hand over nothing, at the end of the log, where nothing can be cut.
        last = journal.last_index
        end: Message = {"prevLogIdx": last, "prevLogTerm": journal.term_at(last), "entries": []}
        return {**message, **end}, verified

    def _SyncObj__sendAppendEntries(self) -> None:
        # To each as much as may be under way (H25); to whom nothing is sent, a heartbeat.
        moment = now()
        self._SyncObj__newAppendEntriesTime = moment + self._heartbeat_interval
        self._marks = []
        if moment - self._marks_told_at >= self._heartbeat_interval:
            self._marks_told_at = moment
            self._marks = self.witness.marks(sorted(self.others))
        for node in self._SyncObj__otherNodes | self._SyncObj__readonlyNodes:
            if node not in self._SyncObj__connectedNodes:
                continue
            if self._SyncObj__raftNextIndex[node] <= self._journal.first_index:
                # Entries follow when it has the snapshot; until then it hears its leader.
                self._send_append(node, serialized=None)
                self._on_snapshot_needed(VoterId(node.id))
            elif not self._send_entries(node):
                self._send_append(node, **self._previous(node), entries=[])

    def _send_entries(self, node: Node) -> bool:
        """Send what a follower lacks, as far as its window goes; returns whether anything was."""
        voter, next_index, sent = VoterId(node.id), self._SyncObj__raftNextIndex, False
        while next_index[node] <= self._journal.last_index and self._windows.has_room(voter):
            entries, size = self._entries_from(next_index[node])
            self._send_append(node, **self._previous(node), entries=entries)
            next_index[node] += len(entries)
            self._windows.sent(voter, next_index[node] - 1, size)
            sent = True
        return sent

    def _entries_from(self, index: int) -> tuple[list[Entry], int]:
        """As many as one append takes, at least one, and their bytes."""
        entries: list[Entry] = []
        size = 0
        for position in range(index - self._journal.first_index, len(self._journal)):
            entries.append(self._journal[position])
            size += len(entries[-1][0])
            if size >= self._append_bytes_max:
                break
        return entries, size

    def _previous(self, node: Node) -> Message:
        index = self._SyncObj__raftNextIndex[node] - 1
        return {"prevLogIdx": index, "prevLogTerm": self._journal.term_at(index)}

    def _send_append(self, node: Node, **fields: object) -> None:
        head = {"type": "append_entries", "term": self._getTerm()}
        head |= {"commit_index": self.commit_index, "marks": self._marks}
        self.out.send(node, {**head, **fields})

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        # Configuration holds from its append on; only plain commands reach the state machine.
        if command[:1] == REGULAR:
            self._apply_entry(self.applied_index + 1, command[1:])

    def _SyncObj__applyLogEntries(self) -> bool:
        # Behind a restart a whole log is committed at once: applied in one tick, it would cost a
        # leader its followers.
        committed, until, applied_any = self.commit_index, now() + APPLY_SECONDS_MAX, False
        while self.applied_index < committed and now() <= until:
            self._SyncObj__raftCommitIndex = self.applied_index + 1
            applied_any = super()._SyncObj__applyLogEntries() or applied_any
        self._SyncObj__raftCommitIndex = committed
        return applied_any

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> list[Any] | None:
        change = change_of(command)
        return None if change is None else [change[0], change[1], self._node(change[1])]

    def _node(self, voter: VoterId) -> Node:
        node = self._nodes.get(voter)
        if node is None:
            node = self._nodes[voter] = Node(voter)
        return node


def _chance() -> float:
    return random.random()  # noqa: S311  # Spreads elections, hides nothing.
