"""For nodes of the fault `removals`: blocks go within seconds, and the process at a given point."""

import os
import signal
from typing import Any

from ipfs_cluster_node.core import held_blocks

held_blocks.NAMED_SECONDS_MAX = 3.0  # type: ignore[misc]
held_blocks.SETTLED_SECONDS = 6.0  # type: ignore[misc]
held_blocks.MERGED_SECONDS = 0.5  # type: ignore[misc]

from ipfs_cluster_node.adapters.content.blockstore import Batch, BlockStore  # noqa: E402
from ipfs_cluster_node.cluster.content import collector  # noqa: E402
from ipfs_cluster_node.cluster.content.contents import Contents  # noqa: E402

collector.SWEEP_SECONDS = 8.0  # type: ignore[misc]

POINTS = {
    "before a deletion": (BlockStore, "_delete", True),
    "after a deletion": (BlockStore, "_delete", False),
    "before a block is named": (BlockStore, "publish", True),
    "after a block is named": (BlockStore, "publish", False),
    "before a flush": (Batch, "flush", True),
    "after a flush": (Batch, "flush", False),
    "before a file is named": (Contents, "_name", True),
}


def _die_at(point: str, count: int) -> None:
    """Have the process end at a point, without a word, when it is there for the `count`th time."""
    owner, name, before = POINTS[point]
    method, left = getattr(owner, name), iter(range(count - 1))

    def die() -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(*args: Any, **kwargs: Any) -> Any:
        if before:
            die()
        result = method(*args, **kwargs)
        if not before:
            die()
        return result

    setattr(owner, name, dying)


if os.environ.get("DIES_AT"):
    _die_at(os.environ["DIES_AT"], int(os.environ["DIES_AT_COUNT"]))
