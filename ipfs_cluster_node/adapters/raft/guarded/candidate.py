"""What a candidate does: asks whether it would win, campaigns, and counts votes."""

import logging
import random
from typing import Final

from pysyncobj.node import Node

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.guarded.state import NEVER, SyncObjState
from ipfs_cluster_node.adapters.raft.messages import Message
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

PRE_VOTE_RETRY_MIN: Final = 0.25
"""Shortest pause between pre-vote rounds, as a share of `election_timeout_min`; the longest is
twice that."""


class Candidate(SyncObjState):
    """The guards of elections."""

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
            if not self.elections.in_pre_vote:  # Logged once, however long it lasts.
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

    def _receive_pre_vote(self, sender: VoterId, message: Message) -> None:
        last = self._journal.last_index
        ours = (self._journal.term_at(last) or 0, last)
        if (message["last_log_term"], message["last_log_index"]) >= ours:
            granted = pb.PreVoteGranted(round=message["round"])
            self.out.post(sender, pb.RaftMessage(term=self._getTerm(), pre_vote_granted=granted))

    def _receive_vote(self, sender: VoterId, node: Node, message: Message) -> None:
        # One vote per voter and term (hazard H4).
        if self._votes[0] != message["term"]:
            self._votes = (message["term"], set())
        if sender not in self._votes[1]:
            self._votes[1].add(sender)
            self.out._onMessageReceived(node, message)


def _chance() -> float:
    return random.random()  # noqa: S311  # Spreads elections, hides nothing.
