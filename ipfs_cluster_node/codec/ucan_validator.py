"""From a container to a proven claim, for both kinds of calls.

A signed call: the container holds an invocation, signed by the caller, and its proofs. Any other
call: TLS has authenticated the caller, the container holds only delegations, and the server makes
the claim itself.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from ipfs_cluster_node.codec.ucan import (
    INVOCATION_TAGS,
    Envelope,
    TokenReader,
    cid_of_token,
    open_envelope,
)
from ipfs_cluster_node.codec.ucan_container import read_container
from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.ucan.access import Access
from ipfs_cluster_node.core.ucan.arrange import find_access
from ipfs_cluster_node.core.ucan.chain import (
    Claim,
    ProvenClaim,
    ValidationContext,
    check_args,
    check_chain,
    check_command,
    check_invocation,
    check_standing,
)
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError, malformed
from ipfs_cluster_node.core.ucan.profiles import PRODUCT, ValidationProfile
from ipfs_cluster_node.core.ucan.replay import UsedInvocations
from ipfs_cluster_node.core.ucan.revocations import Revocations
from ipfs_cluster_node.core.ucan.tokens import Delegation, Invocation


@dataclass(frozen=True, slots=True)
class DecodedTokens:
    """The content of a container."""

    invocation: Invocation | None
    """Verified."""
    found: Mapping[Cid, Delegation | Envelope]
    """By CID; envelopes are not verified yet."""


class Validator:
    """Decides calls of one cluster by their tokens. For one thread."""

    def __init__(
        self, *, authority: Did | None, started_s: int, profile: ValidationProfile = PRODUCT
    ) -> None:
        """Validate for a cluster.

        Args:
            authority: The cluster's DID, subject of every chain; None only with a profile that
                requires none.
            started_s: When this process started to accept calls, in seconds since 1970.
            profile: The strictness.

        Raises:
            ValueError: No authority, although the profile requires one.
        """
        if profile.authority_required and authority is None:
            raise ValueError("this profile needs the cluster's DID")
        self._authority = authority
        self._profile = profile
        self._reader = TokenReader(profile)
        self._used = UsedInvocations(since_s=started_s, profile=profile)

    def validation_context(
        self,
        *,
        now_s: int,
        revocations: Revocations,
        revoked_dids: Container[Did] = frozenset(),
    ) -> ValidationContext:
        """The context of calls at `now_s`; `revoked_dids` were removed or revoked."""
        return ValidationContext(
            profile=self._profile,
            now_s=now_s,
            authority=self._authority,
            revocations=revocations,
            revoked_dids=revoked_dids,
        )

    def read(self, container: str) -> DecodedTokens:
        """Read a container, once for all requirements; its invocation is verified.

        Raises:
            UcanError: It is malformed, or holds a malformed token or several invocations.
        """
        invocation: Envelope | None = None
        found: dict[Cid, Delegation | Envelope] = {}
        for token in read_container(container, profile=self._profile):
            cid = cid_of_token(token)
            known = self._reader.remembered(cid)
            if known is not None:
                found[cid] = known
                continue
            envelope = open_envelope(token, profile=self._profile)
            if envelope.tag not in INVOCATION_TAGS:
                found[cid] = envelope
            elif invocation is None:
                invocation = envelope
            else:
                raise malformed("a call carries one invocation")
        signed = None if invocation is None else self._reader.invocation(invocation)
        return DecodedTokens(signed, found)

    def delegations(self, tokens: DecodedTokens) -> list[Delegation]:
        """The delegations of a container, verified.

        Raises:
            UcanError: One of them is malformed, or not signed by its issuer.
        """
        # Not remembered yet: a stranger's tokens would evict those that matter.
        return [
            token if isinstance(token, Delegation) else self._reader.delegation(token)
            for token in tokens.found.values()
        ]

    def delegation(self, token: bytes) -> Delegation:
        """Read one delegation, verified.

        Raises:
            UcanError: It is malformed, or not signed by its issuer.
        """
        known = self._reader.remembered(cid_of_token(token))
        return known or self._reader.delegation(open_envelope(token, profile=self._profile))

    def stored(self, token: bytes) -> Delegation:
        """Read one that the cluster stores: verified once, then cached.

        Raises:
            UcanError: It is malformed, or not signed by its issuer.
        """
        delegation = self.delegation(token)
        self._reader.remember(delegation)
        return delegation

    def access(
        self,
        caller: Did,
        command: Command,
        delegations: Sequence[Delegation],
        context: ValidationContext,
    ) -> Access:
        """Find a caller's access under one command, for many calls without an invocation.

        The delegations are verified, in any order; irrelevant ones are ignored.

        Raises:
            UcanError: No chain is valid.
            ValueError: There is no authority to call.
        """
        if self._authority is None:
            raise ValueError("a peer's call needs the cluster's DID")
        claim = Claim(issuer=caller, subject=self._authority, command=command, args={})
        access = find_access(claim, delegations, context)
        for delegation in access.nearest:
            self._reader.remember(delegation)
        return access

    def invoked(
        self,
        tokens: DecodedTokens,
        *,
        command: Command,
        args_of: Callable[[], Mapping[str, Value] | None],
        context: ValidationContext,
        stored: Callable[[Cid], bytes | None] = lambda _cid: None,
        by_item: bool = False,
    ) -> ProvenClaim:
        """Decide a call with a signed invocation, and mark the invocation as used.

        Args:
            tokens: One invocation and the delegations that it names; others are ignored.
            command: The one that the server assigns to the method.
            args_of: Derives all arguments of the command from the request. Called once everything
                else is valid, so that an unauthorized caller learns nothing about them.
            context: The current context.
            stored: Returns a delegation that the cluster stores, by its CID; None if it does not.
            by_item: Whether policies are evaluated on each item of the answer, not on the call.

        Raises:
            UcanError: The call is denied.
            ClusterError: OVERLOADED: too many invocations at once.
        """
        invocation = tokens.invocation
        if invocation is None:
            raise malformed("a signed call carries one invocation")
        found = dict(tokens.found)
        for cid in invocation.proofs:
            token = None if cid in found else stored(cid)
            if token is not None:
                found[cid] = self.delegation(token)
        chain = resolve(invocation, found, self._reader)
        check_invocation(invocation, context)
        check_command(invocation, command)
        claim = claim_of(invocation)
        if by_item:
            check_standing(claim, chain, context)
            grant = ProvenClaim(claim=claim, chain=tuple(chain))
        else:
            grant = check_chain(claim, chain, context)
        check_args(invocation, args_of())
        self._used.use(invocation, holder=grant.holder, now_s=context.now_s)
        # Not before: a stranger's tokens would evict those that matter.
        for delegation in chain:
            self._reader.remember(delegation)
        return grant


def resolve(
    invocation: Invocation, found: Mapping[Cid, Delegation | Envelope], reader: TokenReader
) -> Sequence[Delegation]:
    """The delegations that `invocation` names, verified, root first.

    Raises:
        UcanError: UnavailableProof, or a delegation's error; with link and CID.
    """
    for link, cid in enumerate(invocation.proofs):
        if cid not in found:
            detail = "the delegation did not come with the invocation"
            raise UcanError(Refusal.UNAVAILABLE_PROOF, detail, link=link, cid=cid)
    chain = []
    for link, cid in enumerate(invocation.proofs):
        token = found[cid]
        try:
            chain.append(token if isinstance(token, Delegation) else reader.delegation(token))
        except UcanError as error:
            raise error.at(link, cid) from None
    return chain


def claim_of(invocation: Invocation) -> Claim:
    """The claim of an invocation."""
    return Claim(
        issuer=invocation.issuer,
        subject=invocation.subject,
        command=invocation.command,
        args=invocation.args,
    )
