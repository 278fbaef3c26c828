"""Directories made by hostile handlers are removed, and nothing else."""

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from ipfs_cluster_node.adapters.worker import trees

NOBODY = 65534


def test_a_link_in_the_place_of_a_directory_is_not_followed(tmp_path: Path) -> None:
    other, link = tmp_path / "other", tmp_path / "link"
    (other / "inner").mkdir(parents=True)
    (other / "inner" / "kept").write_text("kept")
    link.symlink_to(other)
    for remove in (trees.remove, trees.empty):
        with pytest.raises(OSError, match="link"):
            remove(link)
    within = tmp_path / "within"
    within.mkdir()
    (within / "link").symlink_to(other)
    trees.remove(within)
    assert not within.exists()
    assert (other / "inner" / "kept").read_text() == "kept"


def test_any_kind_of_entry_is_removed_and_the_directory_stays_or_goes(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    place = tmp_path / "place"
    for _ in range(2):
        (place / "a" / "b" / "c").mkdir(parents=True)
        for directory in (place, place / "a" / "b"):
            (directory / "file").write_text("x")
            (directory / "file").chmod(0)
            os.mkfifo(directory / "pipe")
            (directory / "link").symlink_to(tmp_path / "kept")
            (directory / "upwards").symlink_to("../..")
            (directory / "dangling").symlink_to("nothing")
            (directory / "-rf *\n").mkdir()
        trees.empty(place)
        assert list(place.iterdir()) == []
    (place / "again").mkdir()
    trees.remove(place)
    trees.remove(place)  # It is gone already.
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "kept"


def test_no_depth_is_too_deep_and_no_descriptor_is_left(tmp_path: Path) -> None:
    """Deeper than Python recurses, and than a path may be long."""
    (tmp_path / "place").mkdir()
    opened = os.open(tmp_path / "place", os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(2500):
        os.mkdir("a" * 20, dir_fd=opened)
        inner = os.open("a" * 20, os.O_RDONLY | os.O_DIRECTORY, dir_fd=opened)
        os.close(opened)
        opened = inner
    os.close(opened)
    before = len(list(Path("/proc/self/fd").iterdir()))
    trees.remove(tmp_path / "place")
    assert list(tmp_path.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_its_owner_may_not_enter_or_change_is_removed(tmp_path: Path) -> None:
    """As root no permission is missing, so another user does it."""

    def remove_in(top: Path) -> None:
        for name, mode in (("none", 0), ("read", 0o500), ("enter", 0o100), ("write", 0o200)):
            inner = top / name / "inner"
            inner.mkdir(parents=True)
            (inner / "file").write_text("x")
            inner.chmod(mode)
            (top / name).chmod(mode)
        top.chmod(0o500)
        trees.empty(top)
        assert list(top.iterdir()) == []

    if os.geteuid() != 0:
        remove_in(tmp_path)
        return
    with tempfile.TemporaryDirectory() as made:
        os.chown(made, NOBODY, NOBODY)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                remove_in(Path(made))
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0


def test_all_that_a_process_started_is_counted_up_to_a_bound() -> None:
    """A shell with two children: the bound is passed before the last is looked at."""
    script = "sleep 60 & sleep 60 & echo started; wait"
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"started\n"
        sleepers = trees.children(shell.pid)
        try:
            assert len(sleepers) == 2
            assert sorted(trees.descendants(shell.pid)) == sorted(sleepers)
            assert set(sleepers) < set(trees.descendants(os.getpid()))
            found = trees.usage(shell.pid, processes_max=10, threads_max=10)
            assert (found.process_count, found.thread_count) == (3, 3)
            everybody = [psutil.Process(pid) for pid in (shell.pid, *sleepers)]
            ends = time.monotonic() + 10
            while found.resident_bytes != sum(each.memory_info().rss for each in everybody):
                assert time.monotonic() < ends  # They have begun by then, and use no more.
                time.sleep(0.01)
                found = trees.usage(shell.pid, processes_max=10, threads_max=10)
            assert 0 < trees.proportional_bytes(shell.pid) <= found.resident_bytes
            assert trees.usage(shell.pid, processes_max=1, threads_max=10).process_count == 2
            assert trees.usage(shell.pid, processes_max=10, threads_max=1).process_count == 2
        finally:
            for pid in sleepers:
                os.kill(pid, signal.SIGKILL)
    assert trees.children(shell.pid) == trees.descendants(shell.pid) == []
    assert trees.usage(shell.pid, processes_max=10, threads_max=10) == trees.Usage(0, 1, 0)
