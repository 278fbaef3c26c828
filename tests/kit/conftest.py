"""Tests of kits run one at a time: each takes port 9096 where that is free."""

from collections.abc import Iterator

import pytest

from tests.support.kits import choosing_ports


@pytest.fixture(autouse=True)
def _choosing_ports() -> Iterator[None]:
    with choosing_ports():
        yield
