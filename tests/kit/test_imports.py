"""Importing the kit does nothing but that."""

import subprocess
import sys

CODE = """
import logging, sys, threading, os
before = set(os.listdir("."))
import ipfs_cluster_node.kit
heavy = {"grpc", "google.protobuf", "pyarrow", "duckdb", "cryptography", "asyncio", "subprocess"}
print(sorted(heavy & sys.modules.keys()))
print(logging.getLogger().handlers, threading.active_count(), set(os.listdir(".")) - before)
"""


def test_importing_the_kit_loads_and_starts_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[] 1 set()"]
    assert done.stderr == ""
