"""What a runner is before its first attempt, as the system says, and what is killed by its marker."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ipfs_cluster_node.adapters.worker.processes import MARKER_VARIABLE, _kill_tree, _marked
from ipfs_cluster_node.adapters.worker.runner import ADDRESS_SPACE_EXTRA_BYTES, OPEN_FILES_MAX

ROOT: Final = Path(__file__).parents[2]
MEMORY_BYTES: Final = 2**26
STARTED: Final = f"""
import ctypes, os, resource, signal, sys
from types import SimpleNamespace
from ipfs_cluster_node.adapters.worker import linux
from ipfs_cluster_node.adapters.worker.runner import _start

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
linux.set_process(linux.PR_SET_DUMPABLE, 0)
seeds = []
sys.modules["numpy"] = SimpleNamespace(random=SimpleNamespace(seed=lambda: seeds.append("own")))
_start(int(sys.argv[1]), {MEMORY_BYTES})
assert seeds == ["own"]
assert os.getsid(0) == os.getpid()
assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert linux._libc.prctl(PR_GET_DUMPABLE := 3, 0, 0, 0, 0) == 1
dies_by = ctypes.c_int()
linux._libc.prctl(PR_GET_PDEATHSIG := 2, ctypes.byref(dies_by), 0, 0, 0)
assert dies_by.value == signal.SIGKILL
assert not os.path.exists("/proc/self/fd/" + sys.argv[1])
for name in ("DATA", "CORE", "NOFILE"):
    print(*resource.getrlimit(getattr(resource, "RLIMIT_" + name)))
print("this too", file=sys.stderr)
"""


def test_a_runner_starts_with_its_own_limits_session_and_output() -> None:
    read, write = os.pipe()
    with os.fdopen(read) as said:
        try:
            subprocess.run(
                [sys.executable, "-c", STARTED, str(write)], pass_fds=[write], cwd=ROOT, check=True
            )
        finally:
            os.close(write)
        *lines, last = said
    assert last == "this too\n"
    limits = [tuple(map(int, line.split())) for line in lines]
    bounds = (
        (resource.RLIMIT_DATA, MEMORY_BYTES + ADDRESS_SPACE_EXTRA_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES_MAX),
    )
    assert limits == [
        tuple(bound if own < 0 else min(own, bound) for own in resource.getrlimit(limit))
        for limit, bound in bounds
    ]


@contextmanager
def waiting(marker: str, *, own_group: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a marker that waits until it is killed."""
    process = subprocess.Popen(
        ["sleep", "60"],
        env={**os.environ, MARKER_VARIABLE: marker},
        start_new_session=own_group,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_what_escaped_its_launcher_is_killed_by_its_marker() -> None:
    """Orphans of a keeper and a launcher that were both killed are in no tree of theirs."""
    marker = f"runner-start-{os.getpid()}"
    with (
        waiting("no marker", own_group=True) as launcher,
        waiting(marker) as escaped,
        waiting(f"{marker}0") as longer,
        waiting("another") as other,
    ):
        assert _marked(marker) == [escaped.pid]
        _kill_tree(launcher.pid, 0, marker, confined=False)
        assert launcher.wait(5) == escaped.wait(5) == -9
        assert longer.poll() is None
        assert other.poll() is None
