"""Tests that run kits do so one at a time: each takes port 9096 where that is free."""

from collections.abc import Iterator

import pytest

from tests.support.kits import choosing_ports


@pytest.fixture
def one_at_a_time() -> Iterator[None]:
    """Also among the tests of other runs on this machine."""
    with choosing_ports():
        yield
