"""One guarded PySyncObj without network, in a test's hand."""

from pathlib import Path
from typing import Any

from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.guarded.voter import GuardedSyncObj
from ipfs_cluster_node.adapters.raft.journal import REGULAR, SegmentedJournal
from ipfs_cluster_node.adapters.raft.witness import Witness
from ipfs_cluster_node.core.ids import VoterId

SELF, *OTHERS = (VoterId(f"{name}.1") for name in "abcde")
B, C, D, E = OTHERS


class Host:
    """One guarded PySyncObj without network; what it sends is read off `sent`."""

    def __init__(self, directory: Path, voters: list[VoterId]) -> None:
        self.applied: list[bytes] = []
        self.snapshots_needed: list[VoterId] = []
        self.journal = SegmentedJournal(DirectoryDisk(directory), base_voters=frozenset(voters))
        self.raft = GuardedSyncObj(
            voter=SELF,
            journal=self.journal,
            config=RaftConfig(),
            witness=Witness(),
            apply_entry=lambda _index, command: self.applied.append(command),
            on_snapshot_needed=self.snapshots_needed.append,
        )
        for voter in voters:
            if voter != SELF:
                self.raft.connected(voter, up=True)

    def sent(self, kind: str) -> list[Any]:
        return [
            (message.term, getattr(message, kind))
            for _, message in (*self.raft.take_appends(), *self.raft.take_outbox())
            if message.WhichOneof("kind") == kind
        ]

    def campaign(self) -> int:
        """Begin a candidacy; returns its term."""
        self.raft._campaign()
        self.raft.tick()
        return int(self.raft._getTerm())

    def lead(self, votes: list[VoterId]) -> int:
        term = self.campaign()
        for voter in votes:
            self.raft.receive(voter, {"type": "response_vote", "term": term})
        assert self.raft._isLeader()
        self.sent("append_entries")
        return term

    def append(
        self,
        sender: VoterId,
        term: int,
        previous: tuple[int, int],
        entries: list[tuple[int, int]],
        commit: int = 1,
    ) -> None:
        self.raft.receive(
            sender,
            {
                "type": "append_entries",
                "sent_at_ns": 0,
                "term": term,
                "commit_index": commit,
                "marks": [],
                "prevLogIdx": previous[0],
                "prevLogTerm": previous[1],
                "entries": [(REGULAR + b"%d.%d" % e, *e) for e in entries],
            },
        )

    def log(self) -> list[tuple[int, int]]:
        return [(index, term) for _, index, term in self.journal[:]]
