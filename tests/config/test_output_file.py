"""Files that a person names: nothing that is there is lost, and what is written is whole."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipfs_cluster_node.config.output_file import output_file
from ipfs_cluster_node.core.errors import ClusterError, Reason


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
    assert "leads nowhere" in refusal(link, force=True).message
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
    write(Path("/dev/null"), force=True)
    assert Path("/dev/null").is_char_device()
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    write(link)
    assert link.is_symlink()


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
