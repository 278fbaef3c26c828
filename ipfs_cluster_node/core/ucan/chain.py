"""Whether a chain of delegations proves a claim, and if not, which link fails.

Source: ucan-wg/spec, "Validation", and ucan-wg/invocation, "Proof Chains"; the order of the checks
gives the names that ucan-wg's fixtures want.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.commands import TOP, Command, covers
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.policies import Evaluation, equal
from ipfs_cluster_node.core.ucan.profiles import ValidationProfile
from ipfs_cluster_node.core.ucan.revocations import Revocations, revoked_link
from ipfs_cluster_node.core.ucan.tokens import Delegation, Invocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """`issuer` wants `command` done on `subject` with `args`.

    Made from a signed invocation, or by the server for a caller that TLS has authenticated.
    """

    issuer: Did
    subject: Did
    command: Command
    args: dict[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenClaim:
    """A claim and the chain that proved it; `check_chain` can check both again at any time."""

    claim: Claim
    chain: tuple[Delegation, ...]
    """Root first; empty if the subject itself calls."""

    @property
    def holder(self) -> Did:
        """The audience of the root delegation, which quotas count: delegating on multiplies none.

        The subject if nothing was delegated.
        """
        return self.chain[0].audience if self.chain else self.claim.subject

    @property
    def expires_s(self) -> int | None:
        """When the first link expires, in seconds since 1970; None if none ever does."""
        return min((d.expires_s for d in self.chain if d.expires_s is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationContext:
    """What a chain is judged by, besides itself."""

    profile: ValidationProfile
    now_s: int
    """Seconds since 1970."""
    authority: Did | None = None
    """The cluster's DID; None only if the profile requires none."""
    revocations: Revocations
    revoked_dids: Container[Did] = frozenset()
    """Removed or revoked principals: their delegations are invalid, wherever they are stored."""

    def __post_init__(self) -> None:
        """Refuse to judge without the authority that the profile requires."""
        if self.profile.authority_required and self.authority is None:
            raise ValueError("this profile needs the cluster's DID")


def check_invocation(invocation: Invocation, context: ValidationContext) -> None:
    """Check an invocation by itself, before its chain.

    Raises:
        UcanError: InvalidAudience, InvalidSubject, InvalidClaim, Expired or TooEarly.
    """
    authority, now_s = context.authority, context.now_s
    if authority is not None and invocation.executor != authority:
        raise _of(invocation, Refusal.INVALID_AUDIENCE, "the invocation is for another executor")
    if authority is not None and invocation.subject != authority:
        raise _of(invocation, Refusal.INVALID_SUBJECT, "the invocation is about another subject")
    lifetime = context.profile.invocation_lifetime_s_max
    if lifetime is not None and invocation.expires_s is None:
        raise _of(invocation, Refusal.INVALID_CLAIM, "the invocation has no expiry")
    check_times(invocation, context)
    expires_s = invocation.expires_s
    if lifetime is not None and expires_s is not None and expires_s > now_s + lifetime:
        detail = f"the invocation expires over {lifetime} s from now"
        raise _of(invocation, Refusal.INVALID_CLAIM, detail)


def check_command(invocation: Invocation, command: Command) -> None:
    """Check that the signed command is the one that the server assigns to the method.

    Raises:
        UcanError: InvalidCommand.
    """
    if invocation.command != command:
        raise _of(invocation, Refusal.INVALID_COMMAND, "the invocation is of another command")


def check_args(invocation: Invocation, args: Mapping[str, Value] | None) -> None:
    """Check that the signed arguments are those that the server derives itself.

    `args` is None if the request has several sets of them.

    Raises:
        UcanError: InvalidClaim.
    """
    if args is None or not equal(invocation.args, dict(args)):
        detail = "what was signed is not what the request asks, once"
        raise _of(invocation, Refusal.INVALID_CLAIM, detail)


def check_chain(
    claim: Claim,
    chain: Sequence[Delegation],
    context: ValidationContext,
    evaluation: Evaluation | None = None,
) -> ProvenClaim:
    """Decide whether `chain`, verified delegations, root first, proves the claim.

    `evaluation` has the shared steps of several chains; default: as the profile allows.

    Raises:
        UcanError: The first failed check: ChainTooLong, InvalidClaim, InvalidSubject,
            InvalidAudience, InvalidCommand, Expired, TooEarly, Revoked, MatchError, or TooLarge
            if the policies take too long. `link` and `cid` name the delegation.
    """
    check_standing(claim, chain, context)
    if evaluation is None:
        evaluation = Evaluation(steps_max=context.profile.evaluation_steps_max)
    check_policies(chain, claim.args, evaluation)
    return ProvenClaim(claim=claim, chain=tuple(chain))


def check_standing(claim: Claim, chain: Sequence[Delegation], context: ValidationContext) -> None:
    """Check everything of `chain` except its policies; the claim's arguments are ignored.

    Raises:
        UcanError: As `check_chain`, except for MatchError.
    """
    check_length(len(chain), context.profile)
    if context.authority is not None and claim.subject != context.authority:
        raise UcanError(Refusal.INVALID_SUBJECT, "the claim is about another subject")
    if not chain and claim.issuer != claim.subject:
        raise UcanError(Refusal.INVALID_CLAIM, "no proof, and the caller is not the subject")
    _check_links(claim, chain, context)
    if claim.issuer in context.revoked_dids:
        raise UcanError(Refusal.REVOKED, "the caller was removed or revoked")
    for link, delegation in enumerate(chain):
        if delegation.issuer in context.revoked_dids:
            raise _at(link, delegation, Refusal.REVOKED, "its issuer was removed or revoked")
    revoked = revoked_link(chain, context.revocations, context.authority)
    if revoked is not None:
        raise _at(revoked, chain[revoked], Refusal.REVOKED, "the delegation is revoked")


def may_be_a_link(claim: Claim, delegation: Delegation, context: ValidationContext) -> bool:
    """Whether a delegation is valid by itself, as a link of some chain for `claim`.

    Not checked: whether its issuer was delegated as much, and whether an earlier issuer revoked it.
    """
    profile = context.profile
    try:
        from_subject = delegation.issuer == claim.subject
        _check_subject(0 if from_subject else 1, delegation, claim.subject, profile)
        _check_expiry(0, delegation, context)
        check_times(delegation, context)
    except UcanError:
        return False
    if not covers(delegation.command, claim.command):
        return False
    if delegation.issuer in context.revoked_dids or claim.issuer in context.revoked_dids:
        return False
    revokers = context.revocations.get(delegation.cid, frozenset())
    return delegation.issuer not in revokers and context.authority not in revokers


def check_length(links: int, profile: ValidationProfile) -> None:
    """Refuse a chain of too many links.

    Raises:
        UcanError: ChainTooLong.
    """
    if links > profile.chain_links_max:
        detail = f"a chain has at most {profile.chain_links_max} links"
        raise UcanError(Refusal.CHAIN_TOO_LONG, detail)


def check_policies(
    chain: Sequence[Delegation], args: Mapping[str, Value], evaluation: Evaluation
) -> None:
    """Check every policy of `chain`, root first, on all arguments; also filters a list.

    Raises:
        UcanError: MatchError, or TooLarge if the policies take too long.
    """
    value = dict(args)
    for link, delegation in enumerate(chain):
        try:
            failing = evaluation.failing(delegation.policy, value)
        except UcanError as error:
            raise error.at(link, delegation.cid) from None
        if failing is not None:
            detail = f"statement {failing} of the policy does not hold"
            raise _at(link, delegation, Refusal.MATCH_ERROR, detail)


def _check_links(claim: Claim, chain: Sequence[Delegation], context: ValidationContext) -> None:
    holder, command = claim.subject, TOP
    for link, delegation in enumerate(chain):
        _check_subject(link, delegation, claim.subject, context.profile)
        if delegation.issuer != holder:
            detail = "issued by one who got nothing from the link before"
            raise _at(link, delegation, Refusal.INVALID_AUDIENCE, detail)
        if not covers(command, delegation.command):
            detail = "the command is not below that of the link before"
            raise _at(link, delegation, Refusal.INVALID_COMMAND, detail)
        _check_expiry(link, delegation, context)
        check_times(delegation, context, link=link)
        holder, command = delegation.audience, delegation.command
    if not chain:
        return
    last = len(chain) - 1
    if claim.issuer != holder:
        detail = "the last delegation is for someone else"
        raise _at(last, chain[last], Refusal.INVALID_AUDIENCE, detail)
    if not covers(command, claim.command):
        detail = "the last delegation does not cover the command"
        raise _at(last, chain[last], Refusal.INVALID_COMMAND, detail)


def _check_subject(
    link: int, delegation: Delegation, subject: Did, profile: ValidationProfile
) -> None:
    if delegation.subject is None:
        if link == 0:
            detail = "the root delegation has no subject"
            raise _at(link, delegation, Refusal.INVALID_CLAIM, detail)
        if not profile.powerline_allowed:
            detail = "a delegation without a subject is not taken here"
            raise _at(link, delegation, Refusal.INVALID_CLAIM, detail)
    elif delegation.subject != subject:
        detail = "the delegation is about another subject"
        raise _at(link, delegation, Refusal.INVALID_SUBJECT, detail)


def _check_expiry(link: int, delegation: Delegation, context: ValidationContext) -> None:
    profile, expires_s = context.profile, delegation.expires_s
    if expires_s is None:
        if profile.delegation_expiry_required:
            detail = "the delegation has no expiry"
            raise _at(link, delegation, Refusal.INVALID_CLAIM, detail)
        return
    lifetime_s = profile.delegation_lifetime_s_max
    if lifetime_s is not None and expires_s > context.now_s + lifetime_s + profile.skew_s:
        detail = f"the delegation expires over {lifetime_s // 86_400} days from now"
        raise _at(link, delegation, Refusal.INVALID_CLAIM, detail)


def check_times(
    token: Delegation | Invocation, context: ValidationContext, *, link: int | None = None
) -> None:
    """Check that a token is valid now.

    Raises:
        UcanError: Expired or TooEarly.
    """
    skew_s, now_s = context.profile.skew_s, context.now_s
    if token.expires_s is not None and now_s >= token.expires_s + skew_s:
        raise UcanError(Refusal.EXPIRED, "the token has expired", link=link, cid=token.cid)
    if token.not_before_s is not None and now_s + skew_s < token.not_before_s:
        raise UcanError(Refusal.TOO_EARLY, "the token is not valid yet", link=link, cid=token.cid)


def _at(link: int, delegation: Delegation, name: Refusal, detail: str) -> UcanError:
    return UcanError(name, detail, link=link, cid=delegation.cid)


def _of(invocation: Invocation, name: Refusal, detail: str) -> UcanError:
    return UcanError(name, detail, cid=invocation.cid)
