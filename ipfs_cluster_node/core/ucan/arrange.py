"""Builds chains from unordered delegations, for calls without an invocation.

A container sorts its tokens by their bytes, so their order carries no meaning; issuer and audience
define the place of each link.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.access import Access
from ipfs_cluster_node.core.ucan.chain import Claim, ValidationContext, check_standing
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.tokens import Delegation

ARRANGEMENTS_MAX: Final = 64
"""Most chains examined to explain why none is valid; several delegations per link would give
thousands."""


def find_access(
    claim: Claim, delegations: Sequence[Delegation], context: ValidationContext
) -> Access:
    """Find the valid chains among `delegations`, ignoring their policies and the claim's arguments.

    They are verified, in any order; irrelevant ones are ignored.

    Raises:
        UcanError: No chain is valid. The error is about the chain that covers the command, if there
            is one, else the first that leads from the subject to the issuer, else any.
    """
    found = arrange(claim, delegations, context)
    if isinstance(found, Access):
        return found
    raise found.error


@dataclass(frozen=True, slots=True)
class Shortfall:
    """No chain is valid: the most informative one, and its error."""

    chain: tuple[Delegation, ...]
    error: UcanError


def arrange(
    claim: Claim, delegations: Sequence[Delegation], context: ValidationContext
) -> Access | Shortfall:
    """Like `find_access`, but returns the invalid chain instead of raising."""
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
        else:  # By a detour around a principal that revoked a link of the shorter one.
            access = Access.found(claim, chain, context)
            if access is not None:
                return access
    if not failures:
        detail = "none of the delegations is for the caller"
        return Shortfall((), UcanError(Refusal.INVALID_AUDIENCE, detail))
    # The first of the most informative; one that starts elsewhere or has another command is least.
    return min(failures, key=lambda failure: _remoteness(claim, failure))


def _remoteness(claim: Claim, failure: Shortfall) -> tuple[bool, bool]:
    from_subject = bool(failure.chain) and failure.chain[0].issuer == claim.subject
    return not from_subject, failure.error.name is Refusal.INVALID_COMMAND


def chains_to(claim: Claim, delegations: Sequence[Delegation]) -> Iterator[tuple[Delegation, ...]]:
    """Chains that end at the issuer, root first: from the subject, or from where they break off.

    None visits a principal twice: without the detour it would grant as much or more.
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
    """The shortest path from one principal to another, in order; empty if there is none."""
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
