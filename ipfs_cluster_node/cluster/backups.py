"""Makes backups: the whole state as a snapshot file, streamed while it is made."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final

from ipfs_cluster_node.adapters.raft.snapshot import encode_file
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.core.errors import ClusterError, Reason

BACKUPS_MAX: Final = 1
"""Concurrent backups: each keeps the state as of its start in memory until it is read."""
CHUNK_BYTES_MAX: Final = 1024 * 1024


class Backups:
    """Backups of this node while it leads. Runs in the event loop's thread."""

    def __init__(self, consensus: Consensus) -> None:
        self._consensus = consensus
        self._count = 0

    async def create_backup(self) -> AsyncIterator[bytes]:
        """Make one of the present state, in chunks of at most `CHUNK_BYTES_MAX`.

        Raises:
            ClusterError: NOT_LEADER, NO_LEADER, OVERLOADED.
        """
        position, encode = self._consensus.freeze()
        if self._count >= BACKUPS_MAX:
            raise ClusterError(
                Reason.OVERLOADED, "another backup is being made; wait until it has ended"
            )
        self._count += 1
        try:
            pieces = chunks(encode_file(position, encode()))
            # In a thread, a chunk at a time, so that encoding delays the log as little as possible.
            while (chunk := await asyncio.to_thread(next, pieces, None)) is not None:
                yield chunk
        finally:
            self._count -= 1


def chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks of `CHUNK_BYTES_MAX`; the last may be shorter."""
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        while len(gathered) >= CHUNK_BYTES_MAX:
            yield bytes(gathered[:CHUNK_BYTES_MAX])
            del gathered[:CHUNK_BYTES_MAX]
    if gathered:
        yield bytes(gathered)
