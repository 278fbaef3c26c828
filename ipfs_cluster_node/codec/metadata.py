"""Metadata keys of calls."""

from typing import Final

CONSISTENCY_KEY: Final = "ipfs-cluster-node-consistency"
"""Request metadata: `linearizable`, the default, or `stale`."""
UCAN_KEY: Final = "ucan"
"""Request metadata: a container (form `C`) of delegations, or of one signed invocation with its
proofs."""
UCAN_PROOF_KEY: Final = "ucan-proof"
"""Request metadata: CIDs of stored delegations, the last of each chain, separated by commas."""
ATTEMPT_KEY: Final = "ipfs-cluster-node-attempt"
"""Request metadata of a worker: `<task id>.<attempt>`, for which it reads or adds files."""
AGE_KEY: Final = "ipfs-cluster-node-age-ms"
"""Response metadata of a stale read: milliseconds since this node last heard the leader."""
