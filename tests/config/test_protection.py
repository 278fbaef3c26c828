"""What others could write in a node's directory, or read of a key, is closed or refused."""

import errno
import logging
import os
from pathlib import Path

import pytest

from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import Profile
from ipfs_cluster_node.config.protection import (
    OTHERS_WRITE,
    check_directory,
    protect,
    protect_home,
)
from ipfs_cluster_node.config.settings import NodeSection
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.node.files import load_files
from ipfs_cluster_node.node.setup import init_cluster

NOBODY = 65534
PASSPHRASE = "a passphrase of some length"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Profile]:
    home = Home(tmp_path_factory.mktemp("node") / "home")
    settings = NodeSection(name="n", role="master")
    done = init_cluster(home, settings, cluster_name="c", recovery_passphrase=PASSPHRASE)
    protect_home(home)
    return home, done.profile


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    "name", ["", "tls", "raft", "raft.new", "content", "state", "state/scratch"]
)
def test_a_directory_that_others_may_write_is_closed_and_that_is_logged(
    made: tuple[Home, Profile], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    home, _ = made
    path = home.path / name
    path.mkdir(mode=0o700, exist_ok=True)
    for mode in (0o777, 0o720):
        path.chmod(mode)
        with caplog.at_level(logging.WARNING):
            protect_home(home)
        assert mode_of(path) == mode & 0o755
        assert [r.__dict__["path"] for r in caplog.records] == [str(path)]
        caplog.clear()
    path.chmod(0o700)
    if name == "raft.new":
        path.rmdir()


def test_a_file_of_the_log_or_the_state_that_others_may_read_is_closed(
    made: tuple[Home, Profile],
) -> None:
    home, _ = made
    for path in (*home.raft.iterdir(), home.masters):
        path.chmod(0o666)
    home.config.chmod(0o664)
    home.ca.chmod(0o666)
    protect_home(home)
    assert {mode_of(path) for path in (*home.raft.iterdir(), home.masters)} == {0o600}
    assert mode_of(home.config) == mode_of(home.ca) == 0o644
    home.config.chmod(0o600)


def test_a_key_that_others_may_read_is_refused_since_it_may_be_known(
    made: tuple[Home, Profile],
) -> None:
    home, _ = made
    for path in (home.identity, home.tls_key, home.certificate, home.seal_key):
        path.chmod(0o640)
        protect_home(home)
        with pytest.raises(ClusterError) as caught:
            load_files(home)
        assert caught.value.reason is Reason.HOME_DAMAGED
        assert f"chmod 600 '{path}'" in caught.value.message
        path.chmod(0o600)
    load_files(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_what_belongs_to_another_user_is_refused(made: tuple[Home, Profile]) -> None:
    home, _ = made
    for path in (
        home.path,
        home.tls,
        home.raft,
        home.state,
        home.content,
        home.config,
        home.masters,
    ):
        os.chown(path, NOBODY, -1)
        with pytest.raises(ClusterError) as caught:
            protect_home(home)
        assert caught.value.reason is Reason.HOME_DAMAGED
        assert f"{path} belongs to the user with id {NOBODY}" in caught.value.message
        os.chown(path, 0, -1)
    for path in (home.identity, home.tls_key, home.seal_key):
        os.chown(path, NOBODY, -1)
        with pytest.raises(ClusterError, match="belongs to"):
            load_files(home)
        os.chown(path, 0, -1)


def test_directories_that_can_be_empty_are_made_where_they_are_missing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_private(home.config, b"")
    protect_home(home)
    assert {mode_of(home.state), mode_of(home.content)} == {0o700}
    assert not home.raft.exists()  # Without its log a master is another voter.


def test_a_profiles_key_that_others_may_read_or_replace_is_refused(
    made: tuple[Home, Profile],
) -> None:
    _, profile = made
    directory = profile.certificate.parent
    for path, mode, way_out in (
        (profile.key, 0o644, "chmod 600"),
        (profile.certificate, 0o640, "chmod 600"),
        (directory, 0o770, "chmod go-w"),
    ):
        before = mode_of(path)
        path.chmod(mode)
        with pytest.raises(ClusterError) as caught:
            Client.from_settings(profile)
        assert caught.value.reason is Reason.HOME_DAMAGED
        assert f"{way_out} '{path}'" in caught.value.message
        path.chmod(before)
    Client.from_settings(profile)


def test_a_clients_directory_in_which_nobody_replaces_anothers_file_is_taken(
    tmp_path: Path,
) -> None:
    """As `/tmp` is: others may write there, and rename or remove only what is theirs."""
    tmp_path.chmod(0o1777)
    check_directory(tmp_path)
    tmp_path.chmod(0o777)
    with pytest.raises(ClusterError, match="others may write to it"):
        check_directory(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_a_clients_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, -1)
    with pytest.raises(ClusterError, match="belongs to the user with id"):
        check_directory(tmp_path)


def test_what_cant_be_closed_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that is mounted read-only."""

    def fail(_path: Path, _mode: int) -> None:
        raise OSError(errno.EROFS, "read-only")

    tmp_path.chmod(0o777)
    monkeypatch.setattr(Path, "chmod", fail)
    with pytest.raises(ClusterError, match=r"can't be closed .*chmod go-rwx") as caught:
        protect(tmp_path, OTHERS_WRITE)
    assert caught.value.reason is Reason.HOME_DAMAGED


def test_what_is_not_there_needs_no_protection(tmp_path: Path) -> None:
    protect(tmp_path / "none", OTHERS_WRITE)
    assert not (tmp_path / "none").exists()
