"""PySyncObj's messages (dicts) to `RaftMessage` and back. Other kinds can't be sent.

`apply_command*`, `timeout_now`, utility messages, pickled big entries and PySyncObj's own snapshot
pieces have no form on the wire, so a peer can't send them (hazards H17, H22).
"""

from collections import deque
from typing import Any, Final

from ipfs_cluster_node.adapters.raft.journal import MEMBERSHIP, NO_OP, REGULAR
from ipfs_cluster_node.adapters.raft.proposals import commands_of
from ipfs_cluster_node.adapters.raft.witness import mark_from_proto
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb

Message = dict[str, Any]
Outbox = list[tuple[VoterId, pb.RaftMessage]]
"""Messages to send, and to whom."""

ENTRY_TYPES: Final = (REGULAR, NO_OP, MEMBERSHIP)
ELECTING: Final = ("request_vote", "pre_vote", "pre_vote_granted", "stale_term", "timeout_now")
"""Kinds of elections; their fields have the names that their protos give them."""


def encode_message(message: Message, term: int) -> pb.RaftMessage | None:
    """Encode one of PySyncObj's messages; None for a kind that must not be sent."""
    match message["type"]:
        case "request_vote":
            return pb.RaftMessage(
                term=message["term"],
                request_vote=pb.RequestVote(
                    last_log_index=message["last_log_index"],
                    last_log_term=message["last_log_term"],
                ),
            )
        case "response_vote":
            return pb.RaftMessage(term=message["term"], vote_granted=pb.VoteGranted())
        case "append_entries" if "transmission" not in message:
            append = pb.AppendEntries(commit_index=message["commit_index"], previous_index=-1)
            if message.get("prevLogIdx") is not None:
                append.previous_index = message["prevLogIdx"]
                append.previous_term = message["prevLogTerm"]
                for command, index, entry_term in message["entries"]:
                    append.entries.add(index=index, term=entry_term, command=command)
            return pb.RaftMessage(term=message["term"], append_entries=append)
        case "next_node_idx":
            # The term makes an answer of an earlier leadership harmless (hazard H2).
            return pb.RaftMessage(
                term=term,
                append_result=pb.AppendResult(
                    next_index=message["next_node_idx"],
                    reset=message["reset"],
                    success=message["success"],
                ),
            )
    return None


def decode_message(raft: pb.RaftMessage) -> Message | None:
    """Decode a peer's message for PySyncObj; None for a malformed one."""
    match raft.WhichOneof("kind"):
        case "vote_granted":
            return {"type": "response_vote", "term": raft.term}
        case "append_result":
            return {
                "type": "next_node_idx",
                "term": raft.term,
                "next_node_idx": raft.append_result.next_index,
                "reset": raft.append_result.reset,
                "success": raft.append_result.success,
                "sent_at_ns": raft.append_result.sent_at_ns,
            }
        case "append_entries":
            return _decode_append(raft)
        case kind if kind in ELECTING:
            body = getattr(raft, kind)
            fields = {field.name: getattr(body, field.name) for field in body.DESCRIPTOR.fields}
            return {"type": kind, "term": raft.term, **fields}
    return None


def _is_entry(command: bytes) -> bool:
    """Whether every replica can apply it; one that can't be applied would stop all (hazard H11)."""
    kind, body = command[:1], command[1:]
    if kind == MEMBERSHIP:
        operation, _, voter = body.partition(b" ")
        return operation in {b"add", b"rem"} and voter != b"" and voter.isascii()
    if kind == REGULAR:
        try:
            deque(commands_of(body), maxlen=0)
        except ValueError:
            return False
    return kind in ENTRY_TYPES


def _decode_append(raft: pb.RaftMessage) -> Message | None:
    append = raft.append_entries
    message: Message = {
        "type": "append_entries",
        "term": raft.term,
        "commit_index": append.commit_index,
        "sent_at_ns": append.sent_at_ns,
        "marks": [(VoterId(mark.voter), mark_from_proto(mark)) for mark in append.marks],
    }
    if append.previous_index < 0:
        return message
    entries = [(entry.command, entry.index, entry.term) for entry in append.entries]
    for position, (command, index, _) in enumerate(entries):
        if index != append.previous_index + 1 + position or not _is_entry(command):
            return None
    message["prevLogIdx"] = append.previous_index
    message["prevLogTerm"] = append.previous_term
    message["entries"] = entries
    return message
