"""A whole voter: its tick, the messages of its peers, and changes of who votes."""

from collections.abc import Iterable
from typing import Any, Final

from pysyncobj.syncobj import _RAFT_STATE

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.guarded.candidate import Candidate
from ipfs_cluster_node.adapters.raft.guarded.follower import Follower
from ipfs_cluster_node.adapters.raft.guarded.leader import Leader
from ipfs_cluster_node.adapters.raft.guarded.outgoing import NANOSECONDS
from ipfs_cluster_node.adapters.raft.journal import MEMBERSHIP, change_of
from ipfs_cluster_node.adapters.raft.messages import Message
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb

VOTER_ONLY: Final = ("response_vote", "next_node_idx", "pre_vote_granted", "stale_term")
REFUSED_WHEN_STALE: Final = ("append_entries", "request_vote", "pre_vote")
"""Kinds that are answered with `StaleTerm` when their term is old."""


class GuardedSyncObj(Leader, Candidate, Follower):
    """PySyncObj, driven by `tick`, fed through `receive`."""

    def tick(self) -> None:
        """Take one step of PySyncObj; before a candidacy, ask whether it would win (hazard H14)."""
        self.needs_tick = False
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

    def receive(self, sender: VoterId, message: Message) -> None:
        """Handle a peer's message, unless a guard drops it."""
        kind, term, newest = message["type"], message["term"], self._getTerm()
        node = self._node(sender)
        votes, learns = node in self._SyncObj__otherNodes, sender in self.learners
        if kind in VOTER_ONLY and not (votes or (learns and kind == "next_node_idx")):
            # Only voters count (hazards H2, H4, H22), except for a learner's progress. A leader or
            # candidate that our configuration does not name yet is heard, since ours may be older.
            # A removed master is refused before it can send anything.
            return
        if kind in REFUSED_WHEN_STALE and term < newest:
            # A node with a newer term could never follow this sender otherwise (hazard H14).
            self.out.post(sender, pb.RaftMessage(term=newest, stale_term=pb.StaleTerm()))
            return
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
                self.witness.learn(message["marks"])
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

    def _watch_leading(self) -> None:
        if self._led_term != self._getTerm() and self.leads:
            self._led_term = self._getTerm()
            self.elections.begin_leading()
            self._inflights.clear()
        if self.learners:
            others = self.others if self.leads else self.learners
            for learner in self.learners & others:
                self.drop_learner(learner)

    def step_down(self, term: int | None = None) -> None:
        """Stop leading; with a term, adopt that newer one."""
        if term is not None:
            self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(_RAFT_STATE.FOLLOWER)
        self._SyncObj__raftLeader = None
        self._watch_leading()

    def connected(self, voter: VoterId, *, up: bool) -> None:
        """Note whether messages can be sent to a voter or learner."""
        (self._up.add if up else self._up.discard)(voter)
        self._inflights.forget(voter)
        if voter in self.learners:
            if not up:
                self.drop_learner(voter)
        elif up:
            self.out._onNodeConnected(self._node(voter))
        else:
            self.out._onNodeDisconnected(self._node(voter))

    def change_voters(self, operation: str, voter: VoterId) -> None:
        """Queue a change of the configuration: `add` or `rem`; `can_change_voters` must be true."""
        self._queued_change = self._journal.last_change_index()
        self.needs_tick = True
        self._applyCommand(f"{operation} {voter}".encode(), None, MEMBERSHIP[0])

    def add_learner(self, learner: VoterId) -> None:
        """Send the log to a node that does not vote, while connected; called on the leader."""
        if learner not in self.learners:
            self.learners.add(learner)
            self.out._onReadonlyNodeConnected(self._node(learner))

    def drop_learner(self, learner: VoterId) -> None:
        """Stop sending to a learner: it is gone, or votes now."""
        self.learners.discard(learner)
        if learner in self.others:
            self._SyncObj__readonlyNodes.discard(self._node(learner))
        else:
            self.out._onReadonlyNodeDisconnected(self._node(learner))
            if learner in self._up:
                # Its link stays up, and nobody reports that again: as a voter it would get no
                # entries.
                self.out._onNodeConnected(self._node(learner))

    def use_voters(self, voters: Iterable[VoterId]) -> None:
        """Adopt the configuration of an installed snapshot."""
        self._SyncObj__updateClusterConfiguration(
            [self._node(voter) for voter in voters if voter != self._voter]
        )

    def _checkCommandsToApply(self) -> None:
        if self._queued_change is not None:  # Nothing else goes through PySyncObj's queue.
            super()._checkCommandsToApply()

    def _SyncObj__tryLogCompaction(self) -> None:
        """Do nothing: snapshots are our own."""

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> list[Any] | None:
        change = change_of(command)
        return None if change is None else [change[0], change[1], self._node(change[1])]
