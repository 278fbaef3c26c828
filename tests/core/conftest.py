"""Fixtures of the tests of decisions."""

import pytest

from tests.support.worlds import World


@pytest.fixture
def world() -> World:
    return World()
