"""What a call carries beside its messages."""

from typing import Final

CONSISTENCY_KEY: Final = "ipfs-cluster-node-consistency"
"""Request metadata: `linearizable`, the default, or `stale`."""
UCAN_KEY: Final = "ucan"
"""Request metadata: a container (form `C`) of delegations, or of one signed invocation with its
proofs."""
UCAN_PROOF_KEY: Final = "ucan-proof"
"""Request metadata: CIDs of kept delegations, the last of each chain, separated by commas."""
ATTEMPT_KEY: Final = "ipfs-cluster-node-attempt"
"""Request metadata of a worker: `<task id>.<attempt>`, whose files it reads or adds."""
AGE_KEY: Final = "ipfs-cluster-node-age-ms"
"""Response metadata of a stale read: for how long this node has not heard the leader."""
