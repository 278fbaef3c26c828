"""Which changes of a state are announced, and what snapshots leave to the garbage collector."""

import gc
import weakref

import pytest

from ipfs_cluster_node.adapters.raft.applying import apply_entry
from ipfs_cluster_node.adapters.raft.proposals import BATCH_ID_BYTES, encode_entry
from ipfs_cluster_node.cluster import state_machine as machines
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.codec.commands import encode_command
from ipfs_cluster_node.codec.snapshot import encode_snapshot
from ipfs_cluster_node.core.commands import ExpireRecords, LogCommand, ProposeConfig
from ipfs_cluster_node.core.effects import Accepted
from ipfs_cluster_node.core.state_data import StateData
from ipfs_cluster_node.core.tables import TableName, Touched


class Ring:
    """Garbage that only the collector sees."""

    def __init__(self) -> None:
        self.own = self


def test_garbage_frozen_with_the_state_is_found_after_some_snapshots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machines, "FREEZES_MAX", 3)
    machine = ReplicatedStateMachine()
    ring = Ring()
    seen = weakref.ref(ring)
    try:
        machine.freeze()
        del ring
        gc.collect()
        assert seen() is not None
        machine.freeze()
        machine.freeze()
        assert seen() is None
    finally:
        gc.unfreeze()


def test_a_state_that_was_loaded_is_not_looked_through_for_garbage() -> None:
    """250,000 files and 100,000 tasks took the collector 1.2 s, and the leader changed."""
    machine = ReplicatedStateMachine()
    gc.unfreeze()
    try:
        use = machine.load(1, encode_snapshot(StateData(cluster_id="c")))
        assert gc.get_freeze_count() == 0
        use()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_what_commands_leave_is_not_looked_through_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = ReplicatedStateMachine()
    command = encode_command(LogCommand(at_ms=1, body=ExpireRecords(), caller="c" * 90))
    monkeypatch.setattr(machines, "UNFROZEN_BYTES_MAX", 1000)
    gc.unfreeze()
    try:
        for _ in range(10):
            machine.apply(1, command)
        assert gc.get_freeze_count() == 0
        machine.apply(1, command)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def setting(key: str, value: str) -> bytes:
    return encode_command(LogCommand(at_ms=1, body=ProposeConfig(values={key: value})))


def announced_by(machine: ReplicatedStateMachine) -> list[tuple[int, Touched | None]]:
    announced: list[tuple[int, Touched | None]] = []
    machine.watch(lambda revision, touched: announced.append((revision, touched)))
    return announced


def test_changes_are_announced_once_for_each_entry_of_the_log() -> None:
    machine = ReplicatedStateMachine()
    announced = announced_by(machine)
    entry = [setting("user.a", "1"), setting("user.b", "1"), setting("user.a", "1")]
    apply_entry(machine, 5, encode_entry(bytes(BATCH_ID_BYTES), entry))
    apply_entry(machine, 9, encode_entry(bytes(BATCH_ID_BYTES), [setting("user.a", "1")]))
    assert announced == [(5, {TableName.SETTINGS: {"user.a", "user.b"}}), (9, {})]
    assert machine.revision == 9


def test_what_a_failing_command_touched_is_announced_with_its_entry() -> None:
    machine = ReplicatedStateMachine()
    announced = announced_by(machine)
    entry = [setting("user.a", "1"), b"\xff", setting("user.b", "1")]
    apply_entry(machine, 5, encode_entry(bytes(BATCH_ID_BYTES), entry))
    assert announced == [(5, {TableName.SETTINGS: {"user.a", "user.b"}})]


def test_a_listener_that_raises_stops_no_replica() -> None:
    machine = ReplicatedStateMachine()

    def fail(_revision: int, _touched: Touched | None) -> None:
        raise RuntimeError("asked for")

    machine.watch(fail)
    entry = encode_entry(bytes(BATCH_ID_BYTES), [setting("user.a", "1")])
    assert apply_entry(machine, 5, entry) == [Accepted()]
    assert machine.revision == 5


def test_a_snapshot_is_announced_as_a_reset() -> None:
    machine = ReplicatedStateMachine()
    announced = announced_by(machine)
    use = machine.load(7, encode_snapshot(StateData(cluster_id="c")))
    assert announced == []
    use()
    gc.unfreeze()
    assert (machine.revision, announced) == (7, [(7, None)])


def test_a_replay_keeps_nothing_that_nobody_hears() -> None:
    machine = ReplicatedStateMachine()
    for index in range(1, 50):
        machine.apply(index, setting("user.a", str(index)))
        machine.end_entry(index)
    held = [each for each in vars(machine).values() if isinstance(each, list)]
    assert held == [[], []]
    assert machine.state._notes.take() == {}
