"""Kits in processes of their own, in a directory of the test's."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ipfs_cluster_node.config.profiles import KIT_DIRECTORY_VARIABLE, PROFILES_VARIABLE


@contextmanager
def choosing_ports() -> Iterator[None]:
    """Keep other processes of tests from taking a port that a kit has found free."""
    path = Path(tempfile.gettempdir()) / f"ipfs-cluster-node-test-kits-{os.getuid()}.lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def kit_environment(folder: Path) -> dict[str, str]:
    """The variables under which kits keep all they make in `folder`."""
    return {
        KIT_DIRECTORY_VARIABLE: str(folder / "kits"),
        PROFILES_VARIABLE: str(folder / "profiles.toml"),
    }


def run_script(script: str, folder: Path, *, seconds: float, **more: str) -> Mapping[str, Any]:
    """Run a program; returns the last line of its output, which is JSON."""
    path = folder / f"script-{len(list(folder.iterdir()))}.py"
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=seconds,
        env=os.environ | kit_environment(folder) | more,
    )
    assert done.returncode == 0, done.stderr
    said: Mapping[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return said
