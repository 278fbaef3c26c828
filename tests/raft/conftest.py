"""What the tests of the replica share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.core.ids import VoterId
from tests.support.memory_replicas import MakeCluster, MemoryCluster
from tests.support.voters import SELF, B, C, Host


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeCluster:
    monkeypatch.setattr("tests.support.virtual_time.VIRTUAL_SECONDS_MAX", 120.0)

    def make(count: int = 3, **config: Any) -> MemoryCluster:
        return MemoryCluster(tmp_path, monkeypatch, count=count, config=RaftConfig(**config))

    return make


@pytest.fixture
def host_of(tmp_path: Path) -> Callable[..., Host]:
    def make(*voters: VoterId) -> Host:
        return Host(tmp_path, [SELF, *(voters or (B, C))])

    return make
