"""A command line that only prints its help does not load what calls a cluster."""

import pkgutil
import subprocess
import sys

import pytest

from ipfs_cluster_node import cli

MODULES = sorted(m.name for m in pkgutil.iter_modules(cli.__path__) if m.name.endswith("_commands"))
HEAVY = (
    *("grpc", "google.protobuf", "pyarrow", "duckdb", "cryptography"),
    *("ipfs_cluster_node.codec", "ipfs_cluster_node.core.views", "ipfs_cluster_node.core.commands"),
)
"""The last two define a hundred dataclasses."""


@pytest.mark.parametrize("module", ["main", *MODULES])
def test_no_module_of_commands_loads_what_calls_a_cluster(module: str) -> None:
    """One import at the top of a shared module made each `--help` three times as slow."""
    code = f"import sys, ipfs_cluster_node.cli.{module}; print(*set({HEAVY}) & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
