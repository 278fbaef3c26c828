"""What faults need of the machine, tried out: root, and some of Debian's programs."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from scripts.lib.fault.lab import run
from scripts.lib.fault.processes import FAKETIME
from scripts.lib.fault.scenarios import NEED_DISKS, NEED_NET, NEED_STRACE

PROBE_SPACE: Final = f"fault-probe-{os.getpid()}"
OWN_MOUNTS: Final = ("unshare", "--mount", "--propagation", "private")
"""Otherwise namespaces of another run keep a disk of this one busy."""
OWN_NET: Final = (*OWN_MOUNTS, "--net")


def prefix(name: str) -> tuple[str, ...]:
    """What the command line of a run begins with: its own network, its own mounts, or nothing."""
    if name in NEED_NET:
        return OWN_NET
    return OWN_MOUNTS if name in NEED_DISKS else ()


def missing(name: str) -> str:
    """Why this fault can't be caused here; empty if it can."""
    for names, probe in _PROBES:
        if name in names:
            try:
                probe()
            except (OSError, RuntimeError) as error:
                return str(error).rpartition("\n")[2]
    return ""


def _has_namespaces() -> None:
    # Its standard input is empty: the switch makes its own port and ends.
    run(*OWN_NET, sys.executable, "-m", "scripts.lib.fault.switch")
    run("ip", "netns", "add", PROBE_SPACE)
    run("ip", "netns", "delete", PROBE_SPACE)


def _has_mounts() -> None:
    with tempfile.TemporaryDirectory() as directory:
        image, place = Path(directory) / "image", Path(directory) / "place"
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(2**20)
        run("mkfs.ext4", "-q", "-F", str(image))
        run(*OWN_MOUNTS, "mount", "-o", "loop", str(image), str(place))
    run("xfs_io", "-V")


def _has_strace() -> None:
    run("strace", "-o", "/dev/null", "-e", "inject=fsync:error=EIO", "true")


def _has_faketime() -> None:
    run("env", f"LD_PRELOAD={FAKETIME}", "FAKETIME=+300s", "true")
    if not Path(FAKETIME).exists():  # The loader only warns.
        raise RuntimeError(f"{FAKETIME} is not there")


def _has_eatmydata() -> None:
    run("eatmydata", "true")


_PROBES: Final[list[tuple[frozenset[str], Callable[[], None]]]] = [
    (NEED_NET, _has_namespaces),
    (NEED_DISKS, _has_mounts),
    (NEED_STRACE, _has_strace),
    (frozenset({"clock"}), _has_faketime),
    (frozenset({"control-lying-disk"}), _has_eatmydata),
]
