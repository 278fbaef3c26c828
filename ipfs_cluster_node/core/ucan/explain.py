"""Why a claim holds or not, in full: for people who ask before they call."""

from collections.abc import Sequence
from dataclasses import dataclass

from ipfs_cluster_node.core.ucan.arrange import ARRANGEMENTS_MAX, chains_to
from ipfs_cluster_node.core.ucan.chain import Circumstances, Claim, check_chain
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.tokens import Delegation


@dataclass(frozen=True, slots=True)
class Explanation:
    """The chain by which a claim holds, or the one that comes nearest and what is wrong with it."""

    chain: tuple[Delegation, ...]
    error: UcanError | None = None


def explain(
    claim: Claim, delegations: Sequence[Delegation], circumstances: Circumstances
) -> Explanation:
    """Judge a claim as a call is judged, and tell by which chain.

    Args:
        claim: What would be asked.
        delegations: Verified, in any order.
        circumstances: The profile, the time and what is revoked.
    """
    nearest: Explanation | None = None
    nearness = (-1, -1)
    for count, chain in enumerate(chains_to(claim, delegations), 1):
        try:
            check_chain(claim, chain, circumstances)
        except UcanError as error:
            near = _nearness(claim, chain, error)
            if near > nearness:
                nearest, nearness = Explanation(chain, error), near
        else:
            return Explanation(chain)
        if count == ARRANGEMENTS_MAX:
            break
    if nearest is not None:
        return nearest
    if claim.issuer == claim.subject:
        return Explanation(())
    missing = UcanError(Refusal.INVALID_CLAIM, "nothing was delegated to the caller")
    return Explanation((), missing)


def _nearness(claim: Claim, chain: Sequence[Delegation], error: UcanError) -> tuple[int, int]:
    """How much a chain that does not hold tells: one from the subject, failing late, tells most."""
    order = {Refusal.INVALID_COMMAND: 1, Refusal.MATCH_ERROR: 3}
    return int(chain[0].issuer == claim.subject), order.get(error.name, 2)
