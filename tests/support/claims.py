"""Principals without keys, and circumstances, for tests that read no token."""

from typing import Any, Final

from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.chain import Circumstances
from ipfs_cluster_node.core.ucan.profiles import PRODUCT

NOW: Final = 1_790_000_000
CLUSTER, ALICE, BOB, CAROL, MALLORY = (
    Did(f"did:key:z6Mk{name}") for name in ("Cluster", "Alice", "Bob", "Carol", "Mallory")
)
ARGS: Final[dict[str, Value]] = {"namespace": "team-a", "priority": 3}


def circumstances(**fields: Any) -> Circumstances:
    default: dict[str, Any] = {
        "profile": PRODUCT,
        "now_s": NOW,
        "authority": CLUSTER,
        "revocations": {},
    }
    return Circumstances(**(default | fields))
