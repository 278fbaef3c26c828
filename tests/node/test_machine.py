"""What snapshots leave to the garbage collector."""

import gc
import weakref

import pytest

from ipfs_cluster_node.node import machine as machines
from ipfs_cluster_node.node.machine import ClusterMachine


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
