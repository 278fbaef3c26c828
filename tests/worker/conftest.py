"""Fixtures of the tests of handlers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.worker import pool
from tests.support.handler_processes import FakeProcess, pool_maker
from tests.support.sql_runs import Run, sql_runner


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs SQL over inputs, given as bytes, and returns the JSON and the path of the Parquet."""
    return sql_runner(tmp_path)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes pools of simulated processes."""
    monkeypatch.setattr(pool, "HandlerProcess", FakeProcess)
    return pool_maker(tmp_path)
