"""A voter's store on disk: how it is made, and whose it is."""

import zlib
from collections.abc import Iterable
from typing import Final

from ipfs_cluster_node.adapters.raft.disk import Disk
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.journal import MEMBERSHIP, REGULAR, SegmentedJournal
from ipfs_cluster_node.adapters.raft.proposals import BATCH_ID_BYTES, encode_entry
from ipfs_cluster_node.adapters.raft.snapshot import Position, store_snapshot
from ipfs_cluster_node.core.ids import VoterId

VOTER_NAME: Final = "voter"


def create_store(
    disk: Disk, voter: VoterId, voters: Iterable[VoterId], *, first: bytes = b""
) -> None:
    """Make an empty store for a voter.

    Args:
        disk: Empty.
        voter: This node in this incarnation.
        voters: Who votes at the beginning: itself for the first master of a cluster; for a joining
            one nobody, until the leader sends it a log that says so.
        first: The first command of the cluster's log.
    """
    store_snapshot(disk, Position(index=1, term=0, voters=frozenset()), [])
    journal = SegmentedJournal(disk, base_voters=frozenset())
    # The first configuration is in the log, so that who joins later learns it from there.
    for index, each in enumerate(sorted(voters), start=journal.last_index + 1):
        journal.add(MEMBERSHIP + f"add {each}".encode(), index, 0)
    if first:
        entry = encode_entry(bytes(BATCH_ID_BYTES), [first])
        journal.add(REGULAR + entry, journal.last_index + 1, 0)
    journal.write_and_sync(journal.take_pending())
    # Last, since it says that there is a store.
    disk.replace(VOTER_NAME, [voter_file(voter)])
    disk.close()


def stored_voter(disk: Disk) -> VoterId | None:
    """Whose store this is; None if there is none.

    Raises:
        LogDamagedError: Not even that can be read.
    """
    data = disk.read(VOTER_NAME)
    if data is None:
        return None
    voter = VoterId(data.partition(b" ")[0].decode("ascii", "replace"))
    if data != voter_file(voter):
        raise LogDamagedError("the name of its voter is not whole")
    return voter


def voter_file(voter: VoterId) -> bytes:
    """What the file says that names the voter of a store."""
    # With a checksum: a flipped bit could make of it another incarnation.
    return f"{voter} {zlib.crc32(voter.encode()):08x}\n".encode()
