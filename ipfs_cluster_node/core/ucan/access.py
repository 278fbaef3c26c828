"""What somebody may do under one command: chains that hold, whose policies judge each call."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ucan.chain import Claim, Grant, check_policies
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.policies import Evaluation
from ipfs_cluster_node.core.ucan.profiles import Profile
from ipfs_cluster_node.core.ucan.tokens import Delegation


@dataclass(frozen=True, slots=True)
class Access:
    """At least one chain that holds, its policies left aside. May be kept for a while."""

    claim: Claim
    """Who asks for which command; the arguments are those of each call."""
    chains: tuple[tuple[Delegation, ...], ...]
    """Root first; an empty one is that of the subject itself."""
    steps_max: int
    """Most statements evaluated for one call."""
    until_s: int | None
    """When the first link of any chain ends, in seconds since 1970: to be found anew then."""
    unconditional: Grant | None
    """Lets every call through, whatever its arguments: no policy of its chain asks for anything."""

    @classmethod
    def of(cls, claim: Claim, chains: tuple[tuple[Delegation, ...], ...], profile: Profile) -> Self:
        """Make it of chains that hold."""
        ends = [d.expires_s for chain in chains for d in chain if d.expires_s is not None]
        # One without any policy comes first: nothing is left to judge.
        ordered = tuple(sorted(chains, key=lambda chain: any(d.policy for d in chain)))
        unconditional = None
        if not any(delegation.policy for delegation in ordered[0]):
            unconditional = Grant(claim=claim, chain=ordered[0])
        until_s = min(ends, default=None)
        return cls(claim, ordered, profile.evaluation_steps_max, until_s, unconditional)

    def check(self, args: Mapping[str, Value]) -> Grant:
        """Decide one call.

        Args:
            args: Every argument of the command.

        Raises:
            UcanError: MatchError, of the first chain; TooLarge where its policies take too long.
        """
        evaluation = Evaluation(steps_max=self.steps_max)
        failure: UcanError | None = None
        for chain in self.chains:
            try:
                check_policies(chain, args, evaluation)
            except UcanError as error:
                failure = failure or error
                if error.name is Refusal.TOO_LARGE:
                    break  # The steps are used up for the other chains too.
            else:
                return Grant(claim=replace(self.claim, args=dict(args)), chain=chain)
        assert failure is not None
        raise failure

    def allows(self, args: Mapping[str, Value]) -> bool:
        """Whether a call with these arguments would be let through: lists are filtered so."""
        if self.unconditional:
            return True
        try:
            self.check(args)
        except UcanError:
            return False
        return True
