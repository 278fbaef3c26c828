"""What the tests of the repository share."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect what earlier tests left, and nothing while sources are parsed.

    A finaliser that prints a traceback parses lines of it, and CPython 3.11 can't parse within
    parsing: "AST constructor recursion depth mismatch".
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()
