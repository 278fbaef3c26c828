"""A table of the state is made in slices, and is as it was when it began."""

from typing import Any

import pytest

from ipfs_cluster_node.access.context import set_permissions
from ipfs_cluster_node.access.turns import set_turn
from ipfs_cluster_node.codec.arrow_tables import ARROW_SCHEMAS, SnapshotReader
from ipfs_cluster_node.core.settings import SETTINGS
from ipfs_cluster_node.services.state_delta import StateDeltaServicer
from ipfs_cluster_node.v1 import state_delta_pb2 as pb
from tests.support.virtual_time import virtual_time
from tests.support.watched_masters import (
    EVERYTHING,
    Master,
    Rights,
    do,
    in_cluster,
    submit,
    with_settings,
)

NOTHING = Rights(frozenset({"none"}), lambda _args: False)


class Busy:
    """Each slice is over at once, and the state changes before the next one."""

    over = True

    def __init__(self, master: Master) -> None:
        self._master = master
        self.count = 0

    async def next(self) -> None:
        self.count += 1
        do(self._master, submit(f"later{self.count}"))
        with_settings(self._master, f"later{self.count}")


async def table_of(master: Master, table: Any, turn: Busy) -> Any:
    """The table as a reader has it, and the index that it is of."""
    consensus: Any = master
    consensus.read_state, consensus.committed_voters = master.state, frozenset()
    set_turn(turn)  # type: ignore[arg-type]
    servicer = StateDeltaServicer(consensus, master.watches)
    reader = SnapshotReader()
    async for frame in servicer.GetSnapshot(pb.GetSnapshotRequest(table=table), None):
        reader.feed(frame)
    return reader.table(), reader.applied_index


@pytest.mark.parametrize("table", ["config", "tasks"])
@pytest.mark.parametrize("rights", [EVERYTHING, NOTHING])
@virtual_time
async def test_a_table_is_made_in_slices_and_is_of_one_index(table: str, rights: Rights) -> None:
    [number] = [n for n, s in ARROW_SCHEMAS.items() if s.metadata[b"table"].decode() == table]
    master = in_cluster()
    do(master, *(submit(f"t{n}") for n in range(20)))
    set_permissions(rights)
    began = master.applied_index
    turn = Busy(master)
    found, index = await table_of(master, number, turn)
    items = 21 if table == "tasks" else len(SETTINGS) + 2
    # Also after what the caller may not read; and once before the state is read.
    assert turn.count == 1 + items
    assert index == began + 2
    names = set(found.column(0).to_pylist())
    assert len(names) == (items if rights is EVERYTHING else 0)
    if names:
        assert {"later1", "user.later1"} & names
        assert not {"later2", "user.later2"} & names
