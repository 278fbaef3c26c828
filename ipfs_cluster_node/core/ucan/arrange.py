"""Chains out of a bag of delegations, for callers that only say who they are (mode B).

A container sorts its tokens by their bytes, so their order says nothing; each link says where it
belongs by its issuer and audience.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.access import Access
from ipfs_cluster_node.core.ucan.chain import Claim, ProvenClaim, ValidationContext, check_standing
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.tokens import Delegation

ARRANGEMENTS_MAX: Final = 64
"""Most chains that are looked at to tell why none holds; several delegations a link would give
thousands."""


def check_any_chain(
    claim: Claim, delegations: Sequence[Delegation], context: ValidationContext
) -> ProvenClaim:
    """Decide whether some chain among `delegations` lets the claim's issuer do what it asks.

    Args:
        claim: What is asked; the issuer as TLS proved it.
        delegations: Verified, in any order; those that do not belong are passed over.
        context: The profile, the time and what is revoked.

    Raises:
        UcanError: No chain holds. It tells of the chain that covers the command, if there is one,
            else of the first that leads from the subject to the issuer, else of what there is.
    """
    return find_access(claim, delegations, context).check(claim.args)


def find_access(
    claim: Claim, delegations: Sequence[Delegation], context: ValidationContext
) -> Access:
    """Find the chains among `delegations` that hold, their policies left aside.

    Args:
        claim: Who asks for which command; its arguments are not looked at.
        delegations: Verified, in any order; those that do not belong are passed over.
        context: The profile, the time and what is revoked.

    Raises:
        UcanError: No chain holds, as in `check_any_chain`.
    """
    found = arrange(claim, delegations, context)
    if isinstance(found, Access):
        return found
    raise found.error


@dataclass(frozen=True, slots=True)
class Shortfall:
    """No chain holds: the one that tells most, and what is wrong with it."""

    chain: tuple[Delegation, ...]
    error: UcanError


def arrange(
    claim: Claim, delegations: Sequence[Delegation], context: ValidationContext
) -> Access | Shortfall:
    """As `find_access`, for who wants to know of the chain that does not hold."""
    access = Access.found(claim, delegations, context)
    if access is not None:
        check_standing(claim, access.nearest, context)
        return access
    chains: Iterator[tuple[Delegation, ...]] = iter([()])
    if delegations:
        chains = islice(chains_to(claim, delegations), ARRANGEMENTS_MAX)
    failures: list[Shortfall] = []
    for chain in chains:
        try:
            check_standing(claim, chain, context)
        except UcanError as error:
            failures.append(Shortfall(chain, error))
        else:  # By a detour around who has revoked something of the shorter one.
            access = Access.found(claim, chain, context)
            if access is not None:
                return access
    if not failures:
        detail = "none of the delegations is for the caller"
        return Shortfall((), UcanError(Refusal.INVALID_AUDIENCE, detail))
    # The first of the most telling; a chain that starts elsewhere or is of another command says
    # least.
    return min(failures, key=lambda failure: _remoteness(claim, failure))


def _remoteness(claim: Claim, failure: Shortfall) -> tuple[bool, bool]:
    from_subject = bool(failure.chain) and failure.chain[0].issuer == claim.subject
    return not from_subject, failure.error.name is Refusal.INVALID_COMMAND


def chains_to(claim: Claim, delegations: Sequence[Delegation]) -> Iterator[tuple[Delegation, ...]]:
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


def path_between(delegations: Sequence[Delegation], start: Did, end: Did) -> tuple[Delegation, ...]:
    """The shortest way from one to another, the first link first; empty if there is none."""
    by_audience: dict[Did, list[Delegation]] = {}
    for delegation in delegations:
        by_audience.setdefault(delegation.audience, []).append(delegation)
    ways: list[tuple[Did, tuple[Delegation, ...]]] = [(end, ())]
    passed = {end}
    while ways and start not in passed:
        longer = []
        for holder, path in ways:
            for link in by_audience.get(holder, ()):
                if link.issuer == start:
                    return (link, *path)
                if link.issuer not in passed:
                    passed.add(link.issuer)
                    longer.append((link.issuer, (link, *path)))
        ways = longer
    return ()
