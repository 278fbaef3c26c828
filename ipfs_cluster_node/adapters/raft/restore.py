"""A store that is read, or made from a whole state, without taking part in consensus.

For a master that goes on alone once the others are lost for good, and for a cluster that is
restored from a backup: both begin a log whose first entry is a whole state, under a voter's name
that no other node knows.
"""

from contextlib import closing
from dataclasses import dataclass

from ipfs_cluster_node.adapters.raft.applying import apply_entries
from ipfs_cluster_node.adapters.raft.disk import Disk
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.journal import NO_OP, SegmentedJournal
from ipfs_cluster_node.adapters.raft.segments import has_journal
from ipfs_cluster_node.adapters.raft.snapshot import Position, open_snapshot, store_snapshot
from ipfs_cluster_node.adapters.raft.snapshotting import load_state
from ipfs_cluster_node.adapters.raft.state_machine import StateMachine
from ipfs_cluster_node.adapters.raft.store import VOTER_NAME, stored_voter, voter_file
from ipfs_cluster_node.core.ids import VoterId


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a store holds."""

    voter: VoterId
    voters: frozenset[VoterId]
    index: int
    """Of its last entry."""
    entry_term: int
    """Of its last entry: of two logs the one with the higher term, then index, has more."""
    term: int


def read_store(disk: Disk, machine: StateMachine) -> Stored:
    """Apply all that a store holds, committed or not, to an empty machine; blocks.

    Every acknowledged write is in the logs of some majority, and this log may be all that is left
    of them: so no entry may be left out. As at a start, a torn tail is cut. No other process may
    use the disk.

    Raises:
        LogDamagedError: It is not whole, or not there.
    """
    voter, snapshot = stored_voter(disk), open_snapshot(disk)
    if snapshot is None:
        raise LogDamagedError("its snapshot is lost")
    with closing(snapshot):
        if voter is None or not has_journal(disk):
            raise LogDamagedError("it is lost, or a part of it")
        load_state(machine, snapshot)()
    position = snapshot.position
    journal = SegmentedJournal(
        disk, base=(NO_OP, position.index, position.term), base_voters=position.voters
    )
    apply_entries(machine, journal, after=position.index)
    _, last_index, last_term = journal[-1]
    disk.close()
    return Stored(
        voter=voter,
        voters=journal.voters(),
        index=last_index,
        entry_term=last_term,
        term=max(last_term, journal.getCurrentTerm()),
    )


def create_store_of(
    disk: Disk, voter: VoterId, machine: StateMachine, *, index: int, term: int
) -> None:
    """Create a store whose log begins with a state, as of `index`; blocks.

    Its only voter is `voter`, a name that no node ever voted under. `term` is higher than every
    term of the log that the state is from; otherwise later entries could look older than those.
    """
    voters = frozenset({voter})
    store_snapshot(disk, Position(index=index, term=term, voters=voters), machine.freeze()())
    # Durable once it is made; no vote is in it, so its term is that of its first entry.
    SegmentedJournal(disk, base=(NO_OP, index, term), base_voters=voters)
    # Last, since this file says that there is a store.
    disk.replace(VOTER_NAME, [voter_file(voter)])
    disk.close()
