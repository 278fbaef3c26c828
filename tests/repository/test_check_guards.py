"""`scripts/check-guards` finds each guard that it takes out."""

from pathlib import Path

import pytest

from scripts.lib.guards import GUARDS, RAFT, ROOT


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard[0])
def test_each_guard_stands_in_its_file_once(guard: tuple[str, ...]) -> None:
    _, _, file, there, *instead = guard
    assert Path(ROOT, RAFT, file).read_text().count(there) == 1
    assert instead != [there]
