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
    """Create an empty store for a voter; `first` is the first command of the cluster's log.

    `voters` are the first ones: itself for the first master of a cluster; none for a joining one,
    whose leader will send it a log that names them.
    """
    store_snapshot(disk, Position(index=1, term=0, voters=frozenset()), [])
    journal = SegmentedJournal(disk, base_voters=frozenset())
    # The first configuration is in the log, so that nodes that join later learn it from there.
    for index, each in enumerate(sorted(voters), start=journal.last_index + 1):
        journal.add(MEMBERSHIP + f"add {each}".encode(), index, 0)
    if first:
        entry = encode_entry(bytes(BATCH_ID_BYTES), [first])
        journal.add(REGULAR + entry, journal.last_index + 1, 0)
    journal.write_and_sync(journal.take_pending())
    # Last, since this file says that there is a store.
    disk.replace(VOTER_NAME, [voter_file(voter)])
    disk.close()


def stored_voter(disk: Disk) -> VoterId | None:
    """The voter of a store; None if there is none. Raises LogDamagedError."""
    data = disk.read(VOTER_NAME)
    if data is None:
        return None
    voter = VoterId(data.partition(b" ")[0].decode("ascii", "replace"))
    if data != voter_file(voter):
        raise LogDamagedError("the name of its voter is not whole")
    return voter


def voter_file(voter: VoterId) -> bytes:
    """The content of the file that names a store's voter."""
    # With a checksum, since a flipped bit could turn the name into another incarnation's.
    return f"{voter} {zlib.crc32(voter.encode()):08x}\n".encode()
