"""Proposals in batches: what waits becomes one log entry, one sync, one round to the followers.

An entry is `batch id (16 bytes)`, then `length u32 | command` for each command, little endian. The
id tells whose batch it is, so that only its proposers get the results (hazard H15).
"""

import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId

BATCH_ID_BYTES: Final = 16
_LENGTH: Final = struct.Struct("<I")
_IDENTITY: Final = struct.Struct("<IIQ")


@dataclass(slots=True)
class Proposal:
    """A command on its way, and how to tell its proposer the outcome."""

    command: bytes
    on_done: Callable[[object], None]
    """Called once, with the state machine's result or a ClusterError."""
    given_up: Callable[[], bool] = lambda: False
    """Whether the proposer no longer waits; the command is then dropped if not proposed yet."""


class Proposals:
    """The commands that wait, and the one batch that is under way."""

    def __init__(
        self, voter: VoterId, *, waiting_max: int, batch_bytes_max: int, batch_commands_max: int
    ) -> None:
        self._identity = zlib.crc32(voter.encode())
        self._waiting_max = waiting_max
        self._batch_bytes_max = batch_bytes_max
        self._batch_commands_max = batch_commands_max
        self._waiting: deque[Proposal] = deque()
        self._batch: list[Proposal] = []
        self._batch_id = b""
        self._batch_term = 0
        self._count = 0
        self.batch_count_last = 0
        self.done: list[tuple[Proposal, object]] = []
        """Results to tell once all that they depend on is durable."""

    @property
    def under_way(self) -> bool:
        """Whether a batch has been proposed and is not committed yet."""
        return bool(self._batch)

    @property
    def waits(self) -> bool:
        """Whether any command waits to be proposed."""
        return bool(self._waiting)

    @property
    def waiting_count(self) -> int:
        """Number of commands that wait to be proposed."""
        return len(self._waiting)

    def put(self, proposal: Proposal) -> None:
        """Queue a proposal; raises OVERLOADED."""
        if len(self._waiting) >= self._waiting_max:
            raise ClusterError(Reason.OVERLOADED, "too many writes wait; try again later")
        self._waiting.append(proposal)

    def next_entry(self, term: int) -> bytes | None:
        """Make one entry of what waits; None if a batch is under way or nothing waits."""
        if self._batch:
            return None
        size = 0
        while (
            self._waiting
            and len(self._batch) < self._batch_commands_max
            and (not size or size + len(self._waiting[0].command) <= self._batch_bytes_max)
        ):
            proposal = self._waiting.popleft()
            if not proposal.given_up():
                size += _LENGTH.size + len(proposal.command)
                self._batch.append(proposal)
        if not self._batch:
            return None
        self._count += 1
        self.batch_count_last = len(self._batch)
        self._batch_term = term
        self._batch_id = _IDENTITY.pack(self._identity, term & 0xFFFFFFFF, self._count)
        return encode_entry(self._batch_id, [proposal.command for proposal in self._batch])

    def take_results(self, entry: bytes, results: list[object]) -> None:
        """Note the results of an applied entry, if it is the batch that is under way."""
        if self._batch and entry[:BATCH_ID_BYTES] == self._batch_id:
            self.done += zip(self._batch, results, strict=True)
            self._batch = []

    def fail_lost(self, *, term: int, leads: bool) -> None:
        """Fail what this node can no longer commit, or learn the outcome of."""
        if not (leads and self._batch_term == term):
            self._fail_batch()
        if not leads:
            self._fail_waiting()

    def give_up(self) -> None:
        """Fail everything, results included: a write that they may depend on has not ended."""
        self._batch = [proposal for proposal, _ in self.take_done()] + self._batch
        self._fail_batch()
        self._fail_waiting()

    def _fail_batch(self) -> None:
        if not self._batch:
            return
        unknown = ClusterError(
            Reason.UNKNOWN_OUTCOME,
            "the leader changed while the write was under way; repeat it with the same request id",
        )
        self.done += [(proposal, unknown) for proposal in self._batch]
        self._batch = []

    def _fail_waiting(self) -> None:
        if not self._waiting:
            return
        lost = ClusterError(
            Reason.NO_LEADER, "this node is no longer the leader; try again in a moment"
        )
        self.done += [(proposal, lost) for proposal in self._waiting]
        self._waiting.clear()

    def take_done(self) -> list[tuple[Proposal, object]]:
        """Take the results that are to be told."""
        done, self.done = self.done, []
        return done


def encode_entry(batch_id: bytes, commands: list[bytes]) -> bytes:
    """Make an entry of commands."""
    parts = [batch_id]
    for command in commands:
        parts += (_LENGTH.pack(len(command)), command)
    return b"".join(parts)


def commands_of(entry: bytes) -> Iterator[bytes]:
    """Take an entry apart; raises ValueError unless `encode_entry` made it."""
    offset, size = BATCH_ID_BYTES, len(entry)
    while offset != size:
        begin = offset + _LENGTH.size
        if begin > size:
            raise ValueError("an entry of the log is cut short")
        offset = begin + _LENGTH.unpack_from(entry, offset)[0]
        if offset > size:
            raise ValueError("an entry of the log is cut short")
        yield entry[begin:offset]
