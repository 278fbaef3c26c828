"""What a leader does: sends entries, within a bound on bytes in flight, and counts answers."""

from pysyncobj.node import Node

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.guarded.outgoing import NANOSECONDS
from ipfs_cluster_node.adapters.raft.guarded.state import SyncObjState
from ipfs_cluster_node.adapters.raft.journal import REGULAR, Entry
from ipfs_cluster_node.adapters.raft.messages import Message, encode_message
from ipfs_cluster_node.adapters.raft.witness import Mark
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb

_Append = tuple[pb.RaftMessage, int, int]
"""A message, the index after its last entry, and the bytes of its entries."""


class Leader(SyncObjState):
    """The guards of the sending end of the log."""

    def append(self, entry: bytes) -> None:
        """Append an entry and send it; called on the leader."""
        self._journal.add(REGULAR + entry, self._journal.last_index + 1, self._getTerm())
        self._SyncObj__sendAppendEntries()

    def _SyncObj__sendAppendEntries(self) -> None:
        # To each peer as much as may be in flight (hazard H25); a heartbeat where that is nothing.
        moment = now()
        self._SyncObj__newAppendEntriesTime: float = moment + self._heartbeat_interval
        self._marks = []
        if moment - self._marks_told_at >= self._heartbeat_interval:
            self._marks_told_at = moment
            self._marks = self.witness.marks(sorted(self.others))
        made: dict[int, _Append] = {}
        for node in self._SyncObj__otherNodes | self._SyncObj__readonlyNodes:
            if node not in self._SyncObj__connectedNodes:
                continue
            next_index = self._SyncObj__raftNextIndex[node]
            if next_index <= self._journal.first_index:
                # It gets entries once it has the snapshot, and heartbeats until then.
                self.out.post_append(VoterId(node.id), self._append_of(serialized=None))
                self._on_snapshot_needed(VoterId(node.id))
            elif not self._send_entries(node, next_index, made):
                heartbeat = self._append_of(**self._previous(next_index), entries=[])
                self.out.post_append(VoterId(node.id), heartbeat)

    def _send_entries(self, node: Node, next_index: int, made: dict[int, _Append]) -> bool:
        """Send what a follower lacks and may be in flight; returns whether anything was sent.

        `made` are the appends of this round, by their first index: followers that lack the same
        get the same.
        """
        voter, last, index = VoterId(node.id), self._journal.last_index, next_index
        while index <= last and self._inflights.has_room(voter):
            append = made.get(index)
            if append is None:
                entries, size = self._entries_from(index)
                message = self._append_of(**self._previous(index), entries=entries)
                append = made[index] = (message, index + len(entries), size)
            message, index, size = append
            self.out.post_append(voter, message)
            self._inflights.sent(voter, index - 1, size)
        self._SyncObj__raftNextIndex[node] = index
        return index > next_index

    def _entries_from(self, index: int) -> tuple[list[Entry], int]:
        """The entries of one append, at least one, and their size in bytes."""
        entries: list[Entry] = []
        size = 0
        for position in range(index - self._journal.first_index, len(self._journal)):
            entries.append(self._journal[position])
            size += len(entries[-1][0])
            if size >= self._append_bytes_max:
                break
        return entries, size

    def _previous(self, index: int) -> Message:
        return {"prevLogIdx": index - 1, "prevLogTerm": self._journal.term_at(index - 1)}

    def _append_of(self, **fields: object) -> pb.RaftMessage:
        head = {"type": "append_entries", "term": self._getTerm()}
        message = encode_message({**head, "commit_index": self.commit_index, **fields}, 0)
        assert message is not None
        message.append_entries.sent_at_ns = int(now() * NANOSECONDS)
        if self._marks:
            message.append_entries.marks.extend(self._marks)
        return message

    def is_late(self, voter: VoterId, message: pb.RaftMessage) -> bool:
        """Whether a voter acknowledges this leader's last entry, which is committed already."""
        last = self._journal.last_index
        result = message.append_result
        return (
            result.next_index - 1 == last == self.commit_index
            and result.success
            and message.term == self._getTerm()
            and self.leads
            and self._node(voter) in self._SyncObj__otherNodes
            and self.match_index(voter) < last
        )

    def _receive_result(self, node: Node, message: Message) -> None:
        last_index = self._journal.last_index
        if message["next_node_idx"] - 1 > last_index:
            return  # Nobody can have more of this term than its leader.
        voter = VoterId(node.id)
        if message["reset"] and not message["success"]:
            if self._inflights.is_old(voter, message["sent_at_ns"]):
                message = {**message, "reset": False}  # What it lacks is in flight already.
            else:
                self._inflights.restart(voter, at_ns=int(now() * NANOSECONDS))
        next_index = self._SyncObj__raftNextIndex
        before = next_index.get(node, 0)
        self.out._onMessageReceived(node, message)
        after = next_index.get(node, 0)
        if message["success"] and not message["reset"] and after < before:
            # What is in flight must not be sent again (hazard H24).
            after = next_index[node] = before
        match_index = self._SyncObj__raftMatchIndex.get(node, 0)
        self._inflights.acknowledged(voter, match_index)
        if match_index > self.commit_index:
            self.needs_tick = True  # It may commit.
        if self._journal.first_index < after <= last_index and self._inflights.has_room(voter):
            self._SyncObj__newAppendEntriesTime = 0.0  # The next tick sends more.
            self.needs_tick = True

    def installed(self, voter: VoterId, index: int) -> None:
        """Note that a follower has loaded the snapshot at `index`."""
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

    def admitted(self, voter: VoterId, claim: Mark) -> None:
        """Note how far the log of a voter that connected goes, even if it acknowledged more."""
        match_index = self._SyncObj__raftMatchIndex
        node = self._node(voter)
        if self.leads and match_index.get(node, 0) > claim.index:
            match_index[node] = claim.index

    def _witness_followers(self) -> None:
        """Remember which committed entries followers acknowledged: they keep them (hazard H26)."""
        commit_index, witness = self.commit_index, self.witness
        for node, match_index in self._SyncObj__raftMatchIndex.items():
            index, voter = min(match_index, commit_index), VoterId(node.id)
            if index > witness.of(voter).index:
                witness.saw_entry(voter, index, self._journal.term_at(index))

    def hand_over(self, voter: VoterId) -> None:
        """Ask a follower that has the whole log to campaign at once."""
        self.elections.hand_over()
        self.out.post(voter, pb.RaftMessage(term=self._getTerm(), timeout_now=pb.TimeoutNow()))
