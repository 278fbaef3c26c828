"""Who stores a file, and what of a disk is kept for the log. Pure."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.ids import NodeId

LOG_RESERVE_SHARE_MAX: Final = 0.05
"""Of a disk: on a small one less is kept for the log than is set."""
LOG_ONLY_SHARE: Final = 0.5
"""Of the reserve: with less free than that, the audit log gives way to the log as well."""


def reserve_bytes(configured_bytes: int, disk_bytes: int) -> int:
    """What of a disk is kept for the log."""
    return min(configured_bytes, int(LOG_RESERVE_SHARE_MAX * disk_bytes))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A master that could hold a file."""

    node_id: NodeId
    alive: bool
    free_bytes: int | None
    """What it can still take of files; None if it has not said."""


def holders_in_order(cid: str, candidates: Iterable[Candidate]) -> list[NodeId]:
    """The masters that are asked to hold a file, one after the other.

    Each master is as likely to come first as it has room: so files spread over all, and the same
    file goes to the same ones. Those that are full or not heard come last, and are asked all the
    same: what is known of them is some seconds old.
    """
    known = list(candidates)
    told = [each.free_bytes for each in known if each.free_bytes is not None]
    usual = sum(told) / len(told) if told else 1.0

    def rank(each: Candidate) -> tuple[bool, bool, float, str]:
        free = usual if each.free_bytes is None else float(each.free_bytes)
        # Weighted rendezvous hashing: the least of exponential waits, of which `free` is the rate.
        wait = -math.log(_chance(cid, each.node_id)) / max(free, 1.0)
        return not each.alive, free <= 0, wait, each.node_id

    return [each.node_id for each in sorted(known, key=rank)]


def _chance(cid: str, node_id: NodeId) -> float:
    """A number above 0 and at most 1 that only these two decide."""
    digest = hashlib.sha256(f"{cid} {node_id}".encode()).digest()
    return (int.from_bytes(digest[:7], "big") + 1) / 2**56
