"""Devices that a test may write to."""

import os
import stat
from pathlib import Path
from typing import Final

NULL: Final = Path("/dev/null")


def device_that_takes_all(path: Path) -> Path:
    """Make one at `path`, or name the machine's own where only root may make devices.

    As root a fault in what is tested would replace the machine's own.
    """
    if os.geteuid() != 0:
        return NULL
    os.mknod(path, stat.S_IFCHR | 0o600, NULL.stat().st_rdev)
    return path
