"""The environment of a command line that is run as a process."""

import os
from pathlib import Path

from ipfs_cluster_node.config.profiles import PROFILES_VARIABLE


def environment_with(profiles: Path) -> dict[str, str]:
    """An environment in which the command line reads its profiles from a file."""
    return {**os.environ, PROFILES_VARIABLE: str(profiles)}
