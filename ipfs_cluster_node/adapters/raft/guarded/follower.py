"""What a follower does: takes the entries of a leader, and applies what is committed."""

from typing import Final

from pysyncobj.node import Node

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.errors import ConsensusViolationError
from ipfs_cluster_node.adapters.raft.guarded.state import SyncObjState
from ipfs_cluster_node.adapters.raft.journal import REGULAR
from ipfs_cluster_node.adapters.raft.messages import Message
from ipfs_cluster_node.core.ids import VoterId

APPLY_SECONDS_MAX: Final = 0.05
"""How long one tick applies entries; the next one goes on."""
COMMITTED_TRUNCATION: Final = "a leader contradicts a committed entry"


class Follower(SyncObjState):
    """The guards of the receiving end of the log."""

    def arrived(self, sender: VoterId) -> None:
        """Note that a message of a voter waits to be received."""
        if sender == self.leader_voter():
            self.elections.leader_arrived(now())

    def _receive_append(self, node: Node, message: Message) -> None:
        self.out.verified_next = None
        announced = message["commit_index"]
        # Until an entry of its own term is committed, a new leader may not know all that is. One
        # of its term at or before the announced index is enough: the log here may be behind.
        if self._journal.term_at(min(announced, self._journal.last_index)) == message["term"]:
            self.staleness.told(announced, applied_index=self.applied_index, now=now())
        if "prevLogIdx" not in message:
            # A snapshot will follow, and nothing is verified yet (hazard H5). Answer even so: a
            # leader that hears nothing during a long transfer would step down.
            self.out._onMessageReceived(node, {**message, "commit_index": 0})
            heard = {"next_node_idx": self._journal.last_index + 1, "reset": False}
            self.out.send(node, {"type": "next_node_idx", "success": False, **heard})
            return
        stripped, verified = self._strip(message)
        if verified is None:
            self.out._onMessageReceived(node, {**stripped, "commit_index": 0})
            return
        self.out.verified_next = verified + 1
        commit_index = min(announced, verified)
        self.out._onMessageReceived(node, {**stripped, "commit_index": commit_index})
        self.out.verified_next = None
        # A leader has all that it calls committed on its disk.
        self.witness.saw_entry(VoterId(node.id), commit_index, self._journal.term_at(commit_index))

    def _strip(self, message: Message) -> tuple[Message, int | None]:
        """Leave out the entries that the log has already: they are never cut (hazard H1).

        Returns the message for PySyncObj, and the index up to which the log then agrees with the
        leader's; None if the entry before does not agree.
        """
        journal = self._journal
        previous, entries = message["prevLogIdx"], message["entries"]
        verified: int = max(previous, journal.first_index)  # A snapshot is committed, so it agrees.
        if previous >= journal.first_index and journal.term_at(previous) != message["prevLogTerm"]:
            return {**message, "entries": []}, None
        if entries and previous == journal.last_index:
            return message, entries[-1][1]  # All of them are new.
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
        # All is there already: pass on no entry, at the end of the log, where none can be cut.
        last = journal.last_index
        end: Message = {"prevLogIdx": last, "prevLogTerm": journal.term_at(last), "entries": []}
        return {**message, **end}, verified

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        # A configuration holds from its append on; only plain commands reach the state machine.
        if command[:1] == REGULAR:
            self._apply_entry(self.applied_index + 1, command[1:])

    def _SyncObj__applyLogEntries(self) -> bool:
        # After a restart a whole log is committed at once. Applied in one tick, it would keep a
        # leader silent for so long that it lost its followers.
        committed = self.commit_index
        if self.applied_index == committed:
            return False
        until, applied_any = now() + APPLY_SECONDS_MAX, False
        while self.applied_index < committed and now() <= until:
            self._SyncObj__raftCommitIndex = self.applied_index + 1
            applied_any = super()._SyncObj__applyLogEntries() or applied_any
        self._SyncObj__raftCommitIndex = committed
        return applied_any
