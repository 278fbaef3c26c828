"""A caller's access under one command: its valid links, whose policies are evaluated per call."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.chain import (
    Claim,
    ProvenClaim,
    ValidationContext,
    check_policies,
    may_be_a_link,
)
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.policies import Evaluation, fields_of, size_of
from ipfs_cluster_node.core.ucan.revocations import revoked_link
from ipfs_cluster_node.core.ucan.tokens import Delegation

Chain = tuple[Delegation, ...]
"""Root first; empty for the subject itself."""


@dataclass(frozen=True, slots=True)
class Access:
    """Links that lead from the subject to the caller in at least one way. May be cached.

    Chains are searched link by link, shortest first, and no holder is visited twice with a command
    as wide: however many chains delegations could form, each link is examined only a few times.
    """

    claim: Claim
    """The caller and the command; the arguments are those of each call."""
    context: ValidationContext
    by_audience: Mapping[Did, Sequence[Delegation]]
    """Candidate delegations by audience, cheapest policy first, so that an expensive policy can't
    use up the steps of a cheap one."""
    nearest: Chain
    """A valid chain, ignoring its policies."""
    until_s: int | None
    """When the first link expires, in seconds since 1970: search again then."""
    unconditional: ProvenClaim | None = field(default=None)
    """Allows every call, whatever its arguments: its chain has no policies."""
    reads: frozenset[str] | None = None
    """The arguments that any policy of these links reads; None if one may read all."""

    @classmethod
    def found(
        cls, claim: Claim, delegations: Iterable[Delegation], context: ValidationContext
    ) -> Self | None:
        """Find it among delegations; None if no chain is valid."""
        links = [d for d in delegations if may_be_a_link(claim, d, context)]
        links.sort(key=lambda link: size_of(link.policy))
        by_audience: dict[Did, list[Delegation]] = {}
        for link in links:
            by_audience.setdefault(link.audience, []).append(link)
        ends = [link.expires_s for link in links if link.expires_s is not None]
        nearest = _search(claim, by_audience, context, lambda _link: True)
        if nearest is None:
            return None
        read = [fields_of(link.policy) for link in links]
        reads = None if None in read else frozenset[str]().union(*(r for r in read if r))
        access = cls(claim, context, by_audience, nearest, min(ends, default=None), reads=reads)
        free = _search(claim, by_audience, context, lambda link: not link.policy)
        if free is None:
            return access
        return replace(access, nearest=free, unconditional=ProvenClaim(claim=claim, chain=free))

    def kind_of(self, args: Mapping[str, Value]) -> tuple[Value, ...]:
        """Equal for calls with the same outcome: those in which the policies read the same."""
        if self.reads is None:
            return tuple(args.values())
        return tuple(value for name, value in args.items() if name in self.reads)

    def check(self, args: Mapping[str, Value], evaluation: Evaluation | None = None) -> ProvenClaim:
        """Decide one call by every argument of the command; several checks may share an evaluation.

        Raises:
            UcanError: MatchError, of the nearest chain; TooLarge if the policies take too long.
        """
        claim = replace(self.claim, args=dict(args))
        if self.unconditional is not None:
            return ProvenClaim(claim=claim, chain=self.unconditional.chain)
        chain, exhausted = self._judge(args, evaluation or self._evaluation())
        if chain is not None:
            return ProvenClaim(claim=claim, chain=chain)
        check_policies(self.nearest, args, self._evaluation())
        assert exhausted is not None
        raise exhausted

    def allows(self, args: Mapping[str, Value], evaluation: Evaluation | None = None) -> bool:
        """Whether a call with these arguments would be allowed; filters lists.

        Raises:
            UcanError: TooLarge, if the steps of `evaluation` are used up.
        """
        if self.unconditional:
            return True
        chain, exhausted = self._judge(args, evaluation or self._evaluation())
        if chain is None and exhausted is not None and evaluation is not None:
            raise exhausted
        return chain is not None

    def _evaluation(self) -> Evaluation:
        return Evaluation(steps_max=self.context.profile.evaluation_steps_max)

    def _judge(
        self, args: Mapping[str, Value], evaluation: Evaluation
    ) -> tuple[Chain | None, UcanError | None]:
        """The chain that allows the call; else the error if the steps were used up first."""
        value = dict(args)
        exhausted: UcanError | None = None

        def holds(link: Delegation) -> bool:
            nonlocal exhausted
            try:
                return evaluation.failing(link.policy, value) is None
            except UcanError as error:
                exhausted = exhausted or error
                return False

        return _search(self.claim, self.by_audience, self.context, holds), exhausted


def _search(
    claim: Claim,
    by_audience: Mapping[Did, Sequence[Delegation]],
    context: ValidationContext,
    holds: Callable[[Delegation], bool],
) -> Chain | None:
    """The shortest valid chain; None if there is none.

    All commands are prefixes of the claim's, so of two the longer is the narrower: from the caller
    back to the root they must not grow longer.
    """
    if claim.issuer == claim.subject:
        return ()
    widest = {claim.issuer: len(claim.command)}
    ways: list[tuple[Did, Chain]] = [(claim.issuer, ())]
    judged: dict[int, bool] = {}
    for _ in range(context.profile.chain_links_max):
        longer: list[tuple[Did, Chain]] = []
        for holder, chain in ways:
            bound = len(chain[0].command) if chain else len(claim.command)
            for link in by_audience.get(holder, ()):
                width = len(link.command)
                from_subject = link.issuer == claim.subject
                if width > bound or (not from_subject and widest.get(link.issuer, 0) >= width):
                    continue
                if id(link) not in judged:
                    judged[id(link)] = holds(link)
                if not judged[id(link)]:
                    continue
                whole = (link, *chain)
                if not from_subject:
                    widest[link.issuer] = width
                    longer.append((link.issuer, whole))
                elif not _is_revoked(whole, context):
                    return whole
        ways = longer
    return None


def _is_revoked(chain: Chain, context: ValidationContext) -> bool:
    """Whether the issuer of an earlier link has revoked a later one."""
    revocations, authority = context.revocations, context.authority
    return revoked_link(chain, revocations, authority) is not None
