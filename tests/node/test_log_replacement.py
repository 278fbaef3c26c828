"""An empty log takes a damaged one's place, whole, wherever the process ends in between."""

from functools import partial
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.store import create_store, stored_voter
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.ids import NodeId, voter_id
from ipfs_cluster_node.node import log_replacement as module
from ipfs_cluster_node.node.log_replacement import (
    DAMAGED_LOGS_MAX,
    Replacement,
    begin_replacement,
    begun_replacement,
    forget_replacement,
    has_new_log,
    put_new_log,
)
from tests.support.crashes import Crash
from tests.support.virtual_time import utc_now

NODE = NodeId("12D3KooWnode")


def damaged_home(path: Path) -> Home:
    home = Home(path)
    for directory in (home.raft, home.state):
        directory.mkdir(parents=True)
    create_store(DirectoryDisk(home.raft), voter_id(NODE, 3), [])
    (home.raft / "snapshot").write_bytes(b"damaged")
    return home


def replaced(home: Home, answers: dict[str, int]) -> int:
    """What a start does, up to where the new log may be used; returns its incarnation."""
    begun = begun_replacement(home)
    if begun is None:
        voter = module._voter_at(home.raft)
        if voter is not None and voter != voter_id(NODE, 3):
            return int(voter.rpartition(".")[2])  # It was whole, and in use.
        begun = begin_replacement(home, NODE)
    if has_new_log(home, NODE, begun):
        forget_replacement(home)
        return begun.granted
    assert begun.incarnation == 3
    granted = answers.setdefault(begun.request_id, 4 + len(answers))
    put_new_log(home, NODE, begun, granted, now=utc_now())
    return granted


def test_a_crash_at_any_point_leads_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = Crash(
        monkeypatch,
        (module, "write_private"),
        (module, "sync_directory"),
        (DirectoryDisk, "replace"),
        (Path, "rename"),
        (Path, "unlink"),
    )
    points = 0
    while True:
        home = damaged_home(tmp_path / str(points))
        answers: dict[str, int] = {}
        points += 1
        if not crash.ends(points, partial(replaced, home, answers)):
            break
        incarnation = replaced(home, answers)
        assert incarnation in answers.values()
        assert stored_voter(DirectoryDisk(home.raft)) == voter_id(NODE, incarnation)
        [kept] = home.damaged_logs()
        assert (kept / "snapshot").read_bytes() == b"damaged"
        assert begun_replacement(home) is None
        assert not home.raft_new.exists()
        assert len(answers) == 1
    assert points > 15


def test_only_so_many_damaged_logs_are_kept_the_newest(tmp_path: Path) -> None:
    home = damaged_home(tmp_path)
    for granted in range(4, 4 + DAMAGED_LOGS_MAX + 2):
        put_new_log(home, NODE, begin_replacement(home, NODE), granted, now=utc_now())
    kept = [stored_voter(DirectoryDisk(path)) for path in home.damaged_logs()]
    assert kept == [voter_id(NODE, n) for n in range(5, 5 + DAMAGED_LOGS_MAX)]


@pytest.mark.parametrize("name", [None, b"", b"12D3KooWnode.3", b"12D3KooWother.3 0cd8ae4c\n"])
def test_what_cant_be_read_is_asked_for_as_unknown(tmp_path: Path, name: bytes | None) -> None:
    home = damaged_home(tmp_path)
    (home.raft / "voter").unlink()
    if name is not None:
        (home.raft / "voter").write_bytes(name)
    assert begin_replacement(home, NODE).incarnation == 0


def test_a_note_that_cant_be_read_is_none(tmp_path: Path) -> None:
    home = damaged_home(tmp_path)
    begin_replacement(home, NODE)
    for note in (b"", b"{}", b'{"request_id": "a", "incarnation": 1, "other": 2}', b"\xff"):
        home.replacement.write_bytes(note)
        assert begun_replacement(home) is None


def test_the_new_log_is_in_place_only_once_it_has_the_granted_name(tmp_path: Path) -> None:
    home = damaged_home(tmp_path)
    for granted, expected in ((0, False), (4, False), (3, True)):
        begun = Replacement(request_id="r", incarnation=3, granted=granted)
        assert has_new_log(home, NODE, begun) is expected
