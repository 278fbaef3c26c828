"""The file that a handler names is opened by the node, and leads nowhere else."""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.worker.files import ResultFileError, open_result

DATA = b"the result"


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[int]:
    """A scratch directory beside a file that is not its handler's; the test may leak nothing."""
    inside = tmp_path / "scratch"
    (inside / "deep" / "er").mkdir(parents=True)
    (tmp_path / "key").write_bytes(b"secret")
    for name in ("r", "deep/er/r"):
        (inside / name).write_bytes(DATA)
    descriptor = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    before = sorted(Path("/proc/self/fd").iterdir())
    yield descriptor
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    os.close(descriptor)


@pytest.mark.parametrize("name", ["r", "deep/er/r"])
def test_a_regular_file_is_opened_for_reading_and_no_child_inherits_it(
    scratch: int, name: str
) -> None:
    opened = open_result(scratch, name)
    try:
        assert os.read(opened, 100) == DATA
        assert not os.get_inheritable(opened)
        assert fcntl.fcntl(opened, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    finally:
        os.close(opened)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/", "r/", "/r", "./r", "deep//er/r", "deep/./er/r", "deep/../r", "../key"],
)
def test_a_path_has_plain_names_only(scratch: int, name: str) -> None:
    with pytest.raises(ResultFileError, match="is not a path to one"):
        open_result(scratch, name)


@pytest.mark.parametrize("name", ["r\0", "\0", "deep\0/er/r"])
def test_a_name_with_a_zero_is_refused_as_one(scratch: int, name: str) -> None:
    """The system would end the name there; Python would raise what nobody expects."""
    with pytest.raises(ResultFileError, match="is not a path to one"):
        open_result(scratch, name)


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to("r"),
        lambda path: path.symlink_to("../key"),
        lambda path: path.symlink_to(path),
        lambda path: os.link(path.parents[1] / "key", path),
        lambda path: os.link(path.parent / "deep/er/r", path),
        lambda path: path.mkdir(),
        os.mkfifo,
        _socket,
        _device,
    ],
    ids=["link", "link out", "loop", "hard link out", "two names", "directory", "pipe", "socket",
         "device"],
)  # fmt: skip
def test_what_is_no_regular_file_with_one_name_is_refused_at_once(
    scratch: int, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "scratch" / "made")
    with pytest.raises(ResultFileError, match="made"):
        open_result(scratch, "made")


def test_no_link_on_the_way_is_followed(scratch: int, tmp_path: Path) -> None:
    (tmp_path / "scratch" / "out").symlink_to(tmp_path)
    (tmp_path / "scratch" / "in").symlink_to("deep")
    for name in ("out/key", "in/er/r"):
        with pytest.raises(ResultFileError, match="can't be opened"):
            open_result(scratch, name)


@pytest.mark.parametrize("name", ["none", "none/r", "deep/none", "r/r"])
def test_what_is_not_there_is_told_with_its_name(scratch: int, name: str) -> None:
    with pytest.raises(ResultFileError, match=f"{name}.*can't be opened"):
        open_result(scratch, name)


def test_a_pipe_in_the_place_of_a_directory_keeps_nobody_waiting(
    scratch: int, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "scratch" / "pipe")
    with pytest.raises(ResultFileError, match="Not a directory"):
        open_result(scratch, "pipe/r")


def test_a_file_of_another_file_system_is_refused(
    scratch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a handler could mount something over a directory of its own."""
    fstat = os.fstat

    def elsewhere(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        if descriptor == scratch:
            return found
        return os.stat_result([*found[:2], found.st_dev + 1, *found[3:10]])

    monkeypatch.setattr(os, "fstat", elsewhere)
    with pytest.raises(ResultFileError, match=r"is not$"):
        open_result(scratch, "r")
