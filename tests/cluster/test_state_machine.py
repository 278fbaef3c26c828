"""What snapshots leave to the garbage collector."""

import gc
import weakref

import pytest

from ipfs_cluster_node.cluster import state_machine as machines
from ipfs_cluster_node.cluster.state_machine import ClusterMachine
from ipfs_cluster_node.codec.commands import encode_command
from ipfs_cluster_node.codec.snapshot import encode_snapshot
from ipfs_cluster_node.core.commands import Command, ExpireRecords
from ipfs_cluster_node.core.state import StateData


class Ring:
    """Garbage that only the collector sees."""

    def __init__(self) -> None:
        self.own = self


def test_garbage_frozen_with_the_state_is_found_after_some_snapshots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machines, "FREEZES_MAX", 3)
    machine = ClusterMachine()
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
    machine = ClusterMachine()
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
    machine = ClusterMachine()
    command = encode_command(Command(at_ms=1, body=ExpireRecords(), caller="c" * 90))
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
