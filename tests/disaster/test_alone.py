"""A master goes on alone with all that its log holds, even if the process ends at any point."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.cluster import peers
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.config import home as home_files
from ipfs_cluster_node.config.home import REPLACED_LOG_PREFIX, Home
from ipfs_cluster_node.core.commands import RemoveNode, SetAuthority
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import voter_id
from ipfs_cluster_node.core.settings import DELETION_PAUSED
from ipfs_cluster_node.disaster import alone, passphrase
from ipfs_cluster_node.disaster.alone import Survivor
from ipfs_cluster_node.node import log_replacement
from ipfs_cluster_node.node.log_replacement import begin_replacement, begun_replacement, settle_log
from tests.support.crashes import Crash
from tests.support.survivors import ADDRESS, OTHERS, PASSPHRASE, home_of_three, write


def check_goes_on(home: Home, *, alone_by_now: bool) -> None:
    survivor = Survivor(home)
    assert survivor.state.settings.changed["user.last"] == "acknowledged"
    assert survivor.is_alone == alone_by_now
    assert len(survivor.others) == (0 if alone_by_now else 2)


def refusal(home: Home) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        Survivor(home)
    return caught.value


def test_what_no_majority_had_acknowledged_is_kept_and_the_others_are_removed(
    tmp_path: Path,
) -> None:
    home = home_of_three(tmp_path)
    survivor = Survivor(home)
    assert [other.name for other in survivor.others] == ["other-0", "other-1"]
    assert not survivor.needs_passphrase
    before = survivor.stored
    survivor.go_on_alone()
    after = Survivor(home)
    assert after.is_alone
    # A name that nobody has voted under, or for; and above every term of the others.
    assert after.stored.voter == voter_id(survivor.node_id, 4)
    assert after.stored.term == before.term + 1
    assert after.stored.index == before.index
    assert after.state.settings.changed["user.last"] == "acknowledged"
    assert all(after.state.members.node(other.node_id) is None for other in OTHERS)
    assert set(PeerBook(home.masters).targets()) == {(ADDRESS[0], survivor.node_id)}
    [kept] = home.path.glob(f"{REPLACED_LOG_PREFIX}*")
    assert (kept / "voter").read_text().startswith(f"{survivor.node_id}.1 ")
    assert after.state.settings[DELETION_PAUSED] == 1
    # A repeat changes nothing.
    after.go_on_alone()
    assert Survivor(home).stored == after.stored


def test_a_crash_at_any_point_leaves_the_old_log_in_place_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = home_of_three(tmp_path / "whole")
    crash = Crash(
        monkeypatch,
        (passphrase, "write_private"),
        (home_files, "write_private"),
        (peers, "write_private"),
        (log_replacement, "sync_directory"),
        (DirectoryDisk, "replace"),
        (DirectoryDisk, "sync"),
        (shutil, "rmtree"),
        (Path, "rename"),
    )
    points, found = 0, set()
    while True:
        points += 1
        home = Home(tmp_path / str(points))
        shutil.copytree(whole.path, home.path)
        survivor = Survivor(home)
        if not crash.ends(points, survivor.go_on_alone):
            break
        settle_log(home)  # As a start does.
        alone_by_now = Survivor(home).is_alone
        found.add(alone_by_now)
        # The new log may not name files that are only here.
        assert Survivor(home).state.settings[DELETION_PAUSED] == alone_by_now
        check_goes_on(home, alone_by_now=alone_by_now)
        assert not home.raft_new.exists()
        Survivor(home).go_on_alone()
        check_goes_on(home, alone_by_now=True)
        assert set(PeerBook(home.masters).targets()) == {(ADDRESS[0], survivor.node_id)}
        assert len(list(home.path.glob(f"{REPLACED_LOG_PREFIX}*"))) == 1
    assert points > 15
    assert found == {False, True}


def test_a_new_log_that_was_not_needed_is_not_taken_for_the_log_later(tmp_path: Path) -> None:
    home = home_of_three(tmp_path)
    shutil.copytree(home.raft, home.raft_new)
    settle_log(home)
    assert not home.raft_new.exists()
    # One that is not whole never takes a log's place.
    shutil.rmtree(home.raft)
    home.raft_new.mkdir()
    (home.raft_new / "snapshot").write_bytes(b"half")
    settle_log(home)
    assert not (home.raft / "snapshot").exists()
    assert refusal(home).reason is Reason.HOME_DAMAGED


def test_the_passphrase_opens_the_keys_where_its_own_key_is_lost(tmp_path: Path) -> None:
    home = home_of_three(tmp_path)
    home.seal_key.unlink()
    before = sorted((p.name, p.read_bytes()) for p in home.raft.iterdir())
    for wrong in ("", PASSPHRASE + "?"):
        survivor = Survivor(home)
        assert survivor.needs_passphrase
        with pytest.raises(ClusterError) as caught:
            survivor.go_on_alone(wrong)
        assert caught.value.reason is Reason.AUTHORITY_SEALED
    assert sorted((p.name, p.read_bytes()) for p in home.raft.iterdir()) == before
    assert not home.seal_key.exists()
    assert not home.recovery_key.exists()
    Survivor(home).go_on_alone(PASSPHRASE)
    assert home.recovery_key.exists()
    # What the passphrase gave is there until a leader has used it.
    assert not Survivor(home).needs_passphrase


def test_a_key_of_its_own_that_others_may_read_is_no_lost_one(tmp_path: Path) -> None:
    home = home_of_three(tmp_path)
    home.seal_key.chmod(0o644)
    survivor = Survivor(home)
    with pytest.raises(ClusterError) as caught:
        survivor.go_on_alone(PASSPHRASE)
    assert caught.value.reason is Reason.HOME_DAMAGED
    assert not home.recovery_key.exists()


def test_keys_that_are_not_sealed_to_it_need_the_passphrase_as_well(tmp_path: Path) -> None:
    """It had joined, and the leader was lost before it sealed the keys for it."""
    home = home_of_three(tmp_path)
    authority = Survivor(home).state.certificates.authority
    write(home, SetAuthority(authority=replace(authority, version=authority.version + 1, wraps=())))
    assert Survivor(home).needs_passphrase


def test_an_old_copy_is_gone_on_with_where_all_that_are_left_are_such(tmp_path: Path) -> None:
    """Each had requested a new log, which nobody could grant: they were stuck."""
    home = home_of_three(tmp_path)
    begin_replacement(home, Survivor(home).node_id)
    survivor = Survivor(home, old_copy=True)
    survivor.go_on_alone()
    assert begun_replacement(home) is None  # Otherwise the next start would ask for an empty log.
    assert Survivor(home).is_alone
    # One that is damaged is none.
    journal = next(home.raft.glob("journal-*"))
    journal.write_bytes(journal.read_bytes()[:-9])
    with pytest.raises(ClusterError) as caught:
        Survivor(home, old_copy=True)
    assert caught.value.reason is Reason.HOME_DAMAGED


def test_a_log_that_cant_be_gone_on_with_is_refused(tmp_path: Path) -> None:
    home = home_of_three(tmp_path / "damaged")
    journal = next(home.raft.glob("journal-*"))
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 1
    journal.write_bytes(data)
    error = refusal(home)
    assert error.reason is Reason.HOME_DAMAGED
    assert "recover cluster" in error.message
    # One that has asked for an empty log may have lost what it acknowledged.
    home = home_of_three(tmp_path / "asked")
    begin_replacement(home, Survivor(home).node_id)
    error = refusal(home)
    assert error.reason is Reason.HOME_DAMAGED
    assert "--old-copy" in error.message
    # A learner that never got it.
    home = home_of_three(tmp_path / "empty")
    node_id = Survivor(home).node_id
    shutil.rmtree(home.raft)
    create_store(DirectoryDisk(home.raft), voter_id(node_id, 7), [])
    error = refusal(home)
    assert error.reason is Reason.HOME_DAMAGED
    assert "never got" in error.message
    # Another node's.
    shutil.rmtree(home.raft)
    create_store(DirectoryDisk(home.raft), voter_id(OTHERS[0].node_id, 7), [])
    assert refusal(home).reason is Reason.HOME_DAMAGED
    # One that was removed.
    home = home_of_three(tmp_path / "removed")
    write(home, RemoveNode(node_id=Survivor(home).node_id))
    assert refusal(home).reason is Reason.MEMBER_NOT_FOUND
    # No master's.
    home = home_of_three(tmp_path / "worker")
    home.config.write_text(home.config.read_text().replace('role = "master"', 'role = "worker"'))
    assert refusal(home).reason is Reason.CONFIG_INVALID
    assert alone.RESTORE.endswith("recover cluster")
