"""What the tests of the replica share."""

from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.raft.config import RaftConfig
from tests.support.memory_replicas import MakeCluster, MemoryCluster


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeCluster:
    monkeypatch.setattr("tests.support.virtual_time.VIRTUAL_SECONDS_MAX", 120.0)

    def make(count: int = 3, **config: Any) -> MemoryCluster:
        return MemoryCluster(tmp_path, monkeypatch, count=count, config=RaftConfig(**config))

    return make
