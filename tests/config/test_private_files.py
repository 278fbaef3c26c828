"""Private files: whole, durable and readable by their owner only, whatever fails meanwhile."""

import errno
import os
import stat
from pathlib import Path

import pytest

from ipfs_cluster_node.config.files import (
    is_of_another_user,
    make_private_directory,
    open_regular,
    write_private,
)


@pytest.fixture(autouse=True)
def _open_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


def test_bytes_are_durable_before_they_have_the_name_and_the_name_before_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced, fsync = tmp_path / "file", list[tuple[str, bytes]](), os.fsync
    path.write_bytes(b"old")

    def noted_fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        what = "names" if stat.S_ISDIR(found.st_mode) else f"{found.st_size} bytes"
        synced.append((what, path.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    write_private(path, b"longer")
    assert synced == [("6 bytes", b"old"), ("names", b"longer")]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "asked for")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="asked for"):
        write_private(path, b"new")
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]


def test_what_has_the_temporary_name_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _bytes: "guessed")
    (tmp_path / "victim").write_bytes(b"kept")
    (tmp_path / ".file.guessed.tmp").symlink_to("victim")
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "file", b"secret")
    assert (tmp_path / "victim").read_bytes() == b"kept"


def test_a_private_directory_is_its_owners_only(tmp_path: Path) -> None:
    make_private_directory(tmp_path / "made")
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    make_private_directory(tmp_path / "made")


def test_a_file_that_is_made_is_private_and_what_is_refused_is_closed(tmp_path: Path) -> None:
    os.close(open_regular(tmp_path / "made", os.O_WRONLY | os.O_CREAT))
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(("owner", "runs_as", "another"), [(0, 5, False), (5, 5, False),
                                                          (6, 5, True), (5, 0, True)])  # fmt: skip
def test_root_and_the_own_user_are_no_other_users(
    monkeypatch: pytest.MonkeyPatch, owner: int, runs_as: int, *, another: bool
) -> None:
    """Root could change the file whoever owns it."""
    monkeypatch.setattr(os, "geteuid", lambda: runs_as)
    status = os.stat_result((0o100600, 1, 1, 1, owner, 0, 0, 0, 0, 0))
    assert is_of_another_user(status) == another
