"""Nodes whose wall clock is set while they run, by libfaketime; their boot clock goes on as it is."""

from pathlib import Path

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalNode

ROOT = Path(__file__).parents[2]


def library() -> Path:
    """Where libfaketime is; skips the test where it is not."""
    for root in (Path("/usr/lib"), ROOT / ".tools/faketime"):
        for found in sorted(root.rglob("libfaketime.so.1")):
            return found
    pytest.skip("libfaketime is missing; scripts/lib/tools.sh fetches it")


def give_clock(node: LocalNode, *, ahead_seconds: int = 0) -> None:
    """Have a node read its wall clock through libfaketime from its next start on."""
    set_clock(node, ahead_seconds=ahead_seconds)
    node.prefix = (
        "env",
        f"LD_PRELOAD={library()}",
        f"FAKETIME_TIMESTAMP_FILE={_file(node)}",
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    )


def set_clock(node: LocalNode, *, ahead_seconds: int) -> None:
    """Set a running node's wall clock, seen from the true one."""
    beside = _file(node).with_suffix(".next")
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.write_text(f"{ahead_seconds:+d}")
    beside.rename(_file(node))


def _file(node: LocalNode) -> Path:
    return node.home.path.parent / f"{node.name}.clock"
