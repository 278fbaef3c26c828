"""Which masters store a file, and how much disk is reserved for the log. Pure."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.ids import NodeId

LOG_RESERVE_SHARE_MAX: Final = 0.05
"""Largest share of a disk: on a small one less than the setting is reserved."""
LOG_ONLY_SHARE: Final = 0.5
"""Share of the reserve below which the audit log stops writing as well."""


def reserve_bytes(configured_bytes: int, disk_bytes: int) -> int:
    """The bytes of a disk that are reserved for the log."""
    return min(configured_bytes, int(LOG_RESERVE_SHARE_MAX * disk_bytes))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A master that could hold a file."""

    node_id: NodeId
    alive: bool
    free_bytes: int | None
    """Bytes of files that it can still store; None if unknown."""


def holders_in_order(cid: str, candidates: Iterable[Candidate]) -> list[NodeId]:
    """The masters to hold a file, in order of preference.

    A master comes first with a probability proportional to its free space, so files spread over
    all, and the same file goes to the same masters. Full or silent ones come last, but are still
    tried: this information is some seconds old.
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
    """A deterministic number above 0 and at most 1."""
    digest = hashlib.sha256(f"{cid} {node_id}".encode()).digest()
    return (int.from_bytes(digest[:7], "big") + 1) / 2**56
