"""Whatever replaces a home's file: reading it fails at once, without waiting."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.sealing import SealKey
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.config.credentials import read_credentials, read_enrolment
from ipfs_cluster_node.config.files import READ_BYTES_MAX, open_regular, read_regular
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import load_settings
from ipfs_cluster_node.core.errors import ClusterError


def lock(path: Path) -> None:
    with Home(path.parent).lock():
        pass


READERS: dict[str, Callable[[Path], object]] = {
    "lock": lock,
    "ca": lambda path: read_credentials(path, path, path),
    "identity": Identity.load,
    "seal key": SealKey.load,
    "settings": load_settings,
    "log": lambda path: DirectoryDisk(path.parent).open(path.name),
    "log read": lambda path: DirectoryDisk(path.parent).read(path.name),
    "log append": lambda path: DirectoryDisk(path.parent).append(path.name, b"entry"),
    "log note": lambda path: DirectoryDisk(path.parent).note(path.name, b"note"),
    "log cut": lambda path: DirectoryDisk(path.parent).truncate(path.name, 0),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("reader", READERS)
def test_a_fifo_in_place_of_a_file_of_the_home_is_refused_at_once(
    tmp_path: Path, reader: str
) -> None:
    path = tmp_path / "lock"
    os.mkfifo(path, 0o600)
    read = READERS[reader]
    with pytest.raises((OSError, ClusterError)):
        read(path)


@pytest.mark.timeout(10)
def test_what_the_node_can_do_without_is_not_waited_for_either(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.state.mkdir()
    for path in (home.masters, home.enrolment):
        os.mkfifo(path, 0o600)
    assert PeerBook(home.masters).targets() == []
    assert read_enrolment(home.enrolment) == ()


@pytest.mark.timeout(10)
def test_only_a_regular_file_of_some_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"whole")
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_regular(link) == b"whole"
    os.truncate(path, READ_BYTES_MAX + 1)
    with pytest.raises(OSError, match="larger") as refused:
        read_regular(path)
    assert refused.value.filename == str(path)
    for other in (Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(other)
