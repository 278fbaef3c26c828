"""What the directory of the log promises: what is durable when, and where each byte goes."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.raft import disk as disk_module
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk

Call = tuple[str, str, bytes]
"""What was synced, of which name, and what it held."""


class Calls:
    """The calls of the system that make durable, in order."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.made: list[Call] = []
        self.names: list[list[str]] = []
        self._directory = directory
        for call in ("fsync", "fdatasync"):
            patch.setattr(os, call, self._noting(getattr(os, call)))
        pwrite = os.pwrite

        def noted_pwrite(descriptor: int, data: bytes, offset: int) -> int:
            self.made.append(("write again", self._name(descriptor), data))
            return pwrite(descriptor, data, offset)

        patch.setattr(os, "pwrite", noted_pwrite)

    def _noting(self, call: object) -> object:
        def noted(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                there = sorted(each.name for each in self._directory.iterdir())
                self.made.append(("names", " ".join(there), b""))
            else:
                path = Path(f"/proc/self/fd/{descriptor}").readlink()
                self.made.append(("bytes", path.name, path.read_bytes()))
            call(descriptor)  # type: ignore[operator]

        return noted

    def _name(self, descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    def take(self) -> list[Call]:
        taken, self.made = self.made, []
        return taken


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DirectoryDisk]:
    made = DirectoryDisk(tmp_path)
    yield made
    made.close()


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(tmp_path, monkeypatch)


def test_what_is_appended_is_durable_after_a_sync(disk: DirectoryDisk, calls: Calls) -> None:
    disk.append("a", b"one ")
    disk.append("a", b"two")
    assert calls.take() == []
    disk.sync("a")
    assert calls.take() == [("bytes", "a", b"one two")]


def test_a_replaced_file_is_durable_before_it_has_the_name_and_then_the_name_is(
    disk: DirectoryDisk, calls: Calls, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    disk.replace("a", [b"ne", b"w"])
    assert calls.take() == [("bytes", "a.new", b"new"), ("names", "a", b"")]
    assert disk.read("a") == b"new"


def test_a_long_file_is_synced_as_it_grows(
    disk: DirectoryDisk, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a sync of the log waits until all of it is written."""
    monkeypatch.setattr(disk_module, "UNSYNCED_BYTES_MAX", 4)
    disk.replace("a", [b"123", b"45", b"678", b"9"])
    assert calls.take() == [
        ("bytes", "a.new", b"12345"),
        ("bytes", "a.new", b"123456789"),
        ("bytes", "a.new", b"123456789"),
        ("names", "a", b""),
    ]


def test_a_renamed_file_is_durable_before_it_has_the_name_and_then_the_name_is(
    disk: DirectoryDisk, calls: Calls
) -> None:
    disk.append("received", b"snapshot")
    disk.rename("received", "snapshot")
    assert calls.take() == [("bytes", "received", b"snapshot"), ("names", "snapshot", b"")]


def test_a_cut_is_durable(disk: DirectoryDisk, calls: Calls) -> None:
    disk.append("a", b"whole and torn")
    disk.truncate("a", 5)
    assert calls.take() == [("bytes", "a", b"whole")]


def test_what_is_settled_is_written_again_then_durable_and_its_name_too(
    disk: DirectoryDisk, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that a sync failed to write counts as written: only written again it is synced."""
    monkeypatch.setattr(disk_module, "UNSYNCED_BYTES_MAX", 4)
    disk.append("a", b"synced, not so")
    disk.settle("a", 7)
    assert calls.take() == [
        ("write again", "a", b" not"),
        ("write again", "a", b" so"),
        ("bytes", "a", b"synced, not so"),
        ("names", "a", b""),
    ]


def test_a_note_is_written_in_place_and_never_synced(disk: DirectoryDisk, calls: Calls) -> None:
    disk.note("n", b"1234")
    disk.note("m", b"other")
    disk.note("n", b"5678")
    assert {what for what, _, _ in calls.take()} == {"write again"}
    assert (disk.read("n"), disk.read("m")) == (b"5678", b"other")


def test_each_append_goes_to_the_file_that_has_the_name_now(disk: DirectoryDisk) -> None:
    disk.append("a", b"1")
    disk.append("b", b"2")
    disk.append("a", b"3")
    assert (disk.read("a"), disk.read("b")) == (b"13", b"2")
    disk.replace("a", [b"new "])
    disk.append("a", b"4")
    assert disk.read("a") == b"new 4"
    disk.remove("a")
    disk.remove("a")
    assert disk.names() == ["b"]
    disk.append("a", b"5")
    assert disk.read("a") == b"5"


def test_a_short_write_is_followed_up(disk: DirectoryDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    disk.append("a", b"more than three")
    assert disk.read("a") == b"more than three"


def test_what_could_not_be_replaced_is_as_it_was(
    disk: DirectoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.replace("a", [b"old"])

    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "asked for")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="asked for"):
            disk.replace("a", [b"new"])
    assert disk.names() == ["a"]
    assert disk.read("a") == b"old"


def test_an_open_file_stays_what_it_was_and_only_files_are_named(
    disk: DirectoryDisk, tmp_path: Path
) -> None:
    disk.replace("a", [b"before"])
    opened = disk.open("a")
    assert opened is not None
    disk.replace("a", [b"afterwards"])
    assert opened.size_bytes == 6
    assert opened.read_at(2, 100) == b"fore"
    opened.close()
    (tmp_path / "directory").mkdir()
    assert disk.names() == ["a"]
    assert disk.open("none") is None
    assert disk.read("none") is None


def test_everything_that_is_held_open_is_given_up(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    disk = DirectoryDisk(tmp_path)
    for name in ("a", "b"):
        disk.append(name, b"x")
        disk.note(f"{name}-note", b"x")
        disk.settle(name, 0)
        disk.truncate(name, 0)
    disk.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    disk.append("a", b"y")  # It may be used again.
    disk.close()
    assert disk.read("a") == b"y"
