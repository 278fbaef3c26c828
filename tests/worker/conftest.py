"""Fixtures of the tests of handlers."""

from pathlib import Path

import pytest

from tests.support.sql_runs import Run, sql_runner


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs SQL over inputs, given as bytes, and returns the JSON and the path of the Parquet."""
    return sql_runner(tmp_path)
