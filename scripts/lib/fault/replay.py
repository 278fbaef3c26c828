"""The log of a master, applied again: what the tables were at each revision."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ipfs_cluster_node.adapters.raft.applying import apply_entry
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.journal import NO_OP, REGULAR, SegmentedJournal
from ipfs_cluster_node.adapters.raft.snapshot import open_snapshot
from ipfs_cluster_node.adapters.raft.snapshotting import load_state
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.core.ids import NodeId, node_id_of_voter
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.state_tables import STATE_TABLES, FileItem
from scripts.lib.fault.readers import Digest, digest_of


class TableDigests:
    """The digest of one table, state after state. Rows of items that stay the same are kept."""

    def __init__(self, name: str) -> None:
        """Of this table."""
        self._items = STATE_TABLES[name].items
        self._known: dict[str, tuple[Any, Digest]] = {}

    def of(self, state: ClusterState, voters: frozenset[NodeId]) -> Digest:
        """The digest now."""
        known, self._known = self._known, {}
        count = total = 0
        for item in self._items(state, voters, None):
            assert item is not None
            found = known.get(item.key)
            # A file has more, on which only rights depend.
            same = item[:2] if isinstance(item, FileItem) else item
            if found is None or found[0] != same:
                found = same, digest_of(item.rows())
            self._known[item.key] = found
            count += found[1][0]
            total += found[1][1]
        return count, total


def digests_at(
    directory: Path, revisions: Sequence[int], names: Sequence[str]
) -> Iterator[tuple[int, Mapping[str, Digest] | None]]:
    """Apply a store's log; yield the digests of tables at these revisions, in order.

    None for a revision that the log no longer has.
    """
    disk, machine = DirectoryDisk(directory), ReplicatedStateMachine()
    snapshot = open_snapshot(disk)
    assert snapshot is not None
    with closing(snapshot):
        load_state(machine, snapshot)()
    position = snapshot.position
    journal = SegmentedJournal(
        disk, base=(NO_OP, position.index, position.term), base_voters=position.voters
    )
    tables = {name: TableDigests(name) for name in names}
    entries = iter(journal[1:])
    at, last = position.index, journal.last_index
    for revision in revisions:
        if not position.index <= revision <= last:
            yield revision, None
            continue
        while at < revision:
            command, at, _ = next(entries)
            if command[:1] == REGULAR:
                apply_entry(machine, at, command[1:])
        voters = frozenset(map(node_id_of_voter, journal.voters(up_to=revision)))
        yield revision, {name: each.of(machine.state, voters) for name, each in tables.items()}
    disk.close()
