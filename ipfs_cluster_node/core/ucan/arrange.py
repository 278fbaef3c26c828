"""Chains out of a bag of delegations, for callers that only say who they are (mode B).

A container sorts its tokens by their bytes, so their order says nothing; each link says where it
belongs by its issuer and audience.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.chain import Circumstances, Claim, Grant, check_chain
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.policies import Evaluation
from ipfs_cluster_node.core.ucan.tokens import Delegation

ARRANGEMENTS_MAX: Final = 64
"""Most chains that are tried for one call; several delegations a link would give thousands."""


def check_any_chain(
    claim: Claim, delegations: Sequence[Delegation], circumstances: Circumstances
) -> Grant:
    """Decide whether some chain among `delegations` lets the claim's issuer do what it asks.

    Args:
        claim: What is asked; the issuer as TLS proved it.
        delegations: Verified, in any order; those that do not belong are passed over.
        circumstances: The profile, the time and what is revoked.

    Raises:
        UcanError: No chain holds. It tells of the chain that covers the command, if there is one,
            else of the first that leads from the subject to the issuer, else of what there is.
    """
    if not delegations or claim.issuer == claim.subject:
        return check_chain(claim, (), circumstances)
    failures: list[tuple[bool, UcanError]] = []
    evaluation = Evaluation(steps_max=circumstances.profile.evaluation_steps_max)
    for chain in _chains(claim, delegations):
        try:
            return check_chain(claim, chain, circumstances, evaluation)
        except UcanError as error:
            failures.append((chain[0].issuer == claim.subject, error))
        if len(failures) == ARRANGEMENTS_MAX:
            break
    if not failures:
        raise UcanError(Refusal.INVALID_AUDIENCE, "none of the delegations is for the caller")
    # The first of the most telling; a chain that starts elsewhere or is of another command says
    # least.
    raise min(failures, key=_remoteness)[1]


def _remoteness(failure: tuple[bool, UcanError]) -> tuple[bool, bool]:
    from_subject, error = failure
    return not from_subject, error.name is Refusal.INVALID_COMMAND


def _chains(claim: Claim, delegations: Sequence[Delegation]) -> Iterator[tuple[Delegation, ...]]:
    """Chains that end at the issuer, root first: to the subject, or to where they break off.

    None passes through anyone twice: without the detour it would grant as much or more.
    """
    by_audience: dict[Did, list[Delegation]] = {}
    for delegation in delegations:
        by_audience.setdefault(delegation.audience, []).append(delegation)
    unfinished: list[tuple[Delegation, ...]] = [()]
    while unfinished:
        chain = unfinished.pop()
        holder = chain[0].issuer if chain else claim.issuer
        before = [] if holder == claim.subject else by_audience.get(holder, [])
        passed = {holder, *(delegation.audience for delegation in chain)}
        longer = [(d, *chain) for d in before if d.issuer not in passed]
        if longer:
            unfinished.extend(reversed(longer))
        elif chain:
            yield chain
