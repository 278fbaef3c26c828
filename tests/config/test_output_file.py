"""Output files: nothing that exists is lost, and what is written is complete."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipfs_cluster_node.config.output_file import output_file
from ipfs_cluster_node.core.errors import ClusterError, Reason
from tests.support.devices import device_that_takes_all


@pytest.fixture(params=["unnamed", "named"])
def _temporary(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With files that have no name until they are whole, and on a system without such files."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)


@pytest.fixture
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def write(path: Path, data: bytes = b"new", *, force: bool = False, private: bool = False) -> None:
    with output_file(path, force=force, private=private) as file:
        file.write(data)


def refusal(path: Path, *, force: bool = False) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        write(path, force=force)
    return caught.value


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("_temporary", "_usual_umask")
def test_an_ordinary_file_gets_the_mode_of_the_umask_and_a_private_one_0600(tmp_path: Path) -> None:
    write(tmp_path / "ordinary")
    write(tmp_path / "private", private=True)
    assert mode_of(tmp_path / "ordinary") == 0o640
    assert mode_of(tmp_path / "private") == 0o600
    assert (tmp_path / "ordinary").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.usefixtures("_temporary")
def test_a_file_that_exists_is_replaced_only_by_force_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o664)
    error = refusal(path)
    assert error.reason is Reason.INVALID_ARGUMENT
    assert "--force" in error.message
    assert path.read_bytes() == b"old"
    write(path, force=True)
    assert path.read_bytes() == b"new"
    assert mode_of(path) == 0o664
    write(path, force=True, private=True)
    assert mode_of(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("_temporary")
def test_a_file_that_was_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ClusterError, match="meanwhile"), output_file(path) as file:
        file.write(b"new")
        path.write_bytes(b"another's")
    assert path.read_bytes() == b"another's"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_hard_links_has_it_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links")

    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    monkeypatch.setattr(os, "link", no_link)
    path = tmp_path / "file"
    write(path)
    assert path.read_bytes() == b"new"
    other = tmp_path / "other"
    with pytest.raises(ClusterError, match="meanwhile"), output_file(other) as file:
        file.write(b"new")
        other.write_bytes(b"another's")
    assert other.read_bytes() == b"another's"
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_a_link_stays_and_its_target_is_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    assert "exists" in refusal(link).message
    write(link, force=True)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    target.unlink()
    assert "dangling link" in refusal(link, force=True).message
    assert not target.exists()


def test_a_pipe_and_a_device_are_written_through_and_stay_what_they_are(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join(timeout=10)
    assert got == [b"new"]
    assert pipe.is_fifo()
    device = device_that_takes_all(tmp_path / "device")
    write(device, force=True)
    assert device.is_char_device()
    link = tmp_path / "link"
    link.symlink_to(device)
    write(link)
    assert link.is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_block_device_needs_force_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(0, 2**19))  # No driver has it.
    assert "exists" in refusal(path).message
    assert "can't be written" in refusal(path, force=True).message
    assert path.is_block_device()


@pytest.mark.parametrize("force", [False, True])
def test_a_socket_is_refused_and_stays_one(tmp_path: Path, *, force: bool) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    assert "is a socket" in refusal(path, force=force).message
    assert path.is_socket()


def test_the_file_that_takes_what_is_printed_is_a_file_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`> result` and `-o result` together: one would truncate what the other has written."""
    path = tmp_path / "result"
    with path.open("w") as printed:
        monkeypatch.setattr(sys, "stdout", printed)
        assert "exists" in refusal(path).message
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError(), BrokenPipeError(32, "pipe")],
)
def test_what_is_wrong_elsewhere_is_not_said_of_the_file(tmp_path: Path, error: OSError) -> None:
    with pytest.raises(type(error)), output_file(tmp_path / "file"):
        raise error
    with pytest.raises(OSError, match="of another kind"), output_file(tmp_path / "file"):
        raise OSError("of another kind")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("whole", [False, True])
def test_a_pipe_without_a_path_of_its_own_is_written_through(*, whole: bool) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as got:
        try:
            with output_file(Path(f"/dev/fd/{writer}"), whole=whole) as file:
                file.write(b"new")
        finally:
            os.close(writer)
        assert got.read() == b"new"


def test_a_pipe_gets_all_or_nothing_where_that_is_asked(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    with pytest.raises(ValueError, match="broken"), output_file(pipe, whole=True) as file:
        file.write(b"half")
        raise ValueError("broken")
    reader.join(timeout=10)
    assert got == [b""]


def test_what_is_no_place_for_a_file_is_refused_by_name(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path).message
    assert f"no directory {tmp_path / 'none'}" in refusal(tmp_path / "none" / "file").message
    with pytest.raises(ClusterError) as caught:
        write(Path("/dev/full"))
    assert caught.value.reason is Reason.STORAGE_FULL
    assert "/dev/full" in caught.value.message


@pytest.mark.usefixtures("_temporary")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
@pytest.mark.parametrize("force", [False, True])
def test_what_fails_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, error: BaseException, *, force: bool
) -> None:
    path = tmp_path / "file"
    if force:
        path.write_bytes(b"old")
    raised = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ClusterError
    with pytest.raises(raised), output_file(path, force=force) as file:
        file.write(b"half")
        raise error
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"old"] if force else [])


def test_nothing_is_left_of_a_process_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from ipfs_cluster_node.config.output_file import output_file\n"
        "with output_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half' * 100_000); print('writes', flush=True); sys.stdin.read()\n"
    )
    for number in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "file")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writes\n"
            process.send_signal(number)
            assert process.wait(10) == -number
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_temporary")
@pytest.mark.parametrize("force", [False, True])
def test_bytes_are_durable_before_their_name_is_and_both_before_that_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    force: bool,  # noqa: FBT001
) -> None:
    target, synced, fsync = tmp_path / "out", [], os.fsync
    if force:
        target.write_bytes(b"old")

    def noted_fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        what = "names" if stat.S_ISDIR(found.st_mode) else f"{found.st_size} bytes"
        synced.append((what, target.exists() and target.read_bytes() == b"longer"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    write(target, b"longer", force=force)
    assert synced == [("6 bytes", False), ("names", True)]


def test_a_file_that_force_need_not_replace_is_made(tmp_path: Path) -> None:
    write(tmp_path / "file", force=True)
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_where_there_is_no_room_that_is_what_is_told(tmp_path: Path, number: int) -> None:
    with pytest.raises(ClusterError) as caught, output_file(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    assert caught.value.reason is Reason.STORAGE_FULL
    assert str(tmp_path / "file") in caught.value.message


def test_without_a_standard_output_a_file_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = (tmp_path / "printed").open("w")
    printed.close()
    monkeypatch.setattr(sys, "stdout", printed)
    write(tmp_path / "printed", force=True)
    assert (tmp_path / "printed").read_bytes() == b"new"


def test_what_has_the_temporary_name_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    monkeypatch.setattr("secrets.token_hex", lambda _bytes: "guessed")
    (tmp_path / "victim").write_bytes(b"kept")
    (tmp_path / ".guessed.tmp").symlink_to("victim")
    assert "can't be written" in refusal(tmp_path / "file").message
    assert (tmp_path / "victim").read_bytes() == b"kept"


def test_what_was_printed_before_comes_first_and_printing_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as got:
        with os.fdopen(writer, "w") as printed:
            monkeypatch.setattr(sys, "stdout", printed)
            print("first", end=" ")
            write(Path("-"), b"then ")
            print("last", end="")
        assert got.read() == b"first then last"


def test_a_pipe_that_takes_a_part_at_a_time_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = bytes(range(256)) * 4096
    got: list[bytes] = []

    def read_all() -> None:
        with os.fdopen(reader, "rb") as pipe:
            got.append(pipe.read())

    thread = threading.Thread(target=read_all)
    thread.start()
    with os.fdopen(writer, "w") as printed:
        monkeypatch.setattr(sys, "stdout", printed)
        write(Path("-"), data)
    thread.join(timeout=10)
    assert got == [data]
