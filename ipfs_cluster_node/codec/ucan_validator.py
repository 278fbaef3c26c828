"""The whole way from a container to a grant, for callers in either mode.

Mode A: the container holds a signed invocation and its proofs. Mode B: TLS has named the caller,
and the container holds delegations only; the server says itself what is asked.
"""

from collections.abc import Mapping, Sequence

from ipfs_cluster_node.codec.ucan import (
    INVOCATION_TAGS,
    Envelope,
    TokenReader,
    cid_of_token,
    open_envelope,
)
from ipfs_cluster_node.codec.ucan_container import read_container
from ipfs_cluster_node.codec.ucan_payload import invocation_of
from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.ucan.access import Access
from ipfs_cluster_node.core.ucan.arrange import check_any_chain, find_access
from ipfs_cluster_node.core.ucan.chain import (
    Circumstances,
    Claim,
    Grant,
    check_asked,
    check_chain,
    check_invocation,
)
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError, malformed
from ipfs_cluster_node.core.ucan.profiles import PRODUCT, Profile
from ipfs_cluster_node.core.ucan.replay import UsedInvocations
from ipfs_cluster_node.core.ucan.revocations import Revocations
from ipfs_cluster_node.core.ucan.tokens import Delegation, Invocation


class Validator:
    """Decides calls of one cluster by the tokens that come with them. For one thread."""

    def __init__(
        self, *, authority: Did | None, started_s: int, profile: Profile = PRODUCT
    ) -> None:
        """Decide for a cluster.

        Args:
            authority: The cluster's DID, subject of every chain; None only with a profile that
                requires none.
            started_s: When this process began to take calls, in seconds since 1970.
            profile: How strict to be.

        Raises:
            ValueError: No authority where the profile requires one.
        """
        if profile.authority_required and authority is None:
            raise ValueError("this profile needs the cluster's DID")
        self._authority = authority
        self._profile = profile
        self._reader = TokenReader(profile)
        self._used = UsedInvocations(since_s=started_s, profile=profile)

    def signed_call(
        self,
        container: str,
        *,
        command: Command,
        args: Mapping[str, Value],
        now_s: int,
        revocations: Revocations,
    ) -> Grant:
        """Decide a call that carries a signed invocation (mode A), and take the invocation as used.

        Args:
            container: One invocation and the delegations that it names; others are passed over.
            command: The one that the server assigns to the method.
            args: As the server derives them from the request, every one of the command.
            now_s: Seconds since 1970.
            revocations: As the log has them.

        Raises:
            UcanError: Why not.
            ClusterError: OVERLOADED: too many invocations at once.
        """
        invocation, chain = self._read_signed(read_container(container, profile=self._profile))
        circumstances = self._circumstances(now_s, revocations)
        check_invocation(invocation, circumstances)
        check_asked(invocation, command, args)
        grant = check_chain(claim_of(invocation), chain, circumstances)
        self._used.use(invocation, now_s=now_s)
        # Not before: a stranger's tokens would drive out those that grant something.
        for delegation in chain:
            self._reader.remember(delegation)
        return grant

    def peer_call(
        self,
        container: str,
        *,
        caller: Did,
        command: Command,
        args: Mapping[str, Value],
        now_s: int,
        revocations: Revocations,
    ) -> Grant:
        """Decide a call of a caller whom TLS named (mode B).

        Args:
            container: Delegations in any order; those that do not help are passed over.
            caller: Of the peer's certificate.
            command: The one that the server assigns to the method.
            args: As the server derives them from the request, every one of the command.
            now_s: Seconds since 1970.
            revocations: As the log has them.

        Raises:
            UcanError: Why not.
            ValueError: There is no authority to call.
        """
        if self._authority is None:
            raise ValueError("a peer's call needs the cluster's DID")
        tokens = read_container(container, profile=self._profile)
        delegations = [self._read_delegation(token) for token in tokens]
        claim = Claim(issuer=caller, subject=self._authority, command=command, args=dict(args))
        circumstances = self._circumstances(now_s, revocations)
        return check_any_chain(claim, delegations, circumstances)

    def claimed_issuer(self, container: str) -> Did | None:
        """Whose signed invocation a container holds; None if it holds delegations only.

        Nothing is verified: whoever asks goes on to `signed_call`.

        Raises:
            UcanError: Malformed or TooLarge.
        """
        for token in read_container(container, profile=self._profile):
            if self._reader.remembered(cid_of_token(token)) is None:
                envelope = open_envelope(token, profile=self._profile)
                if envelope.tag in INVOCATION_TAGS:
                    return invocation_of(envelope.payload, envelope.cid, self._profile).issuer
        return None

    def delegations_in(self, container: str) -> list[Delegation]:
        """Read the delegations that a container holds, verified.

        Raises:
            UcanError: One of them is none, or not signed by its issuer.
        """
        tokens = read_container(container, profile=self._profile)
        return [self._read_delegation(token) for token in tokens]

    def delegation(self, token: bytes) -> Delegation:
        """Read one delegation, verified.

        Raises:
            UcanError: It is none, or not signed by its issuer.
        """
        return self._read_delegation(token)

    def access(
        self,
        caller: Did,
        command: Command,
        delegations: Sequence[Delegation],
        *,
        now_s: int,
        revocations: Revocations,
    ) -> Access:
        """Find what delegations let a caller do under one command (mode B), for many calls.

        Args:
            caller: As TLS named it.
            command: The one that the server assigns to the method.
            delegations: Verified, in any order.
            now_s: Seconds since 1970.
            revocations: As the log has them.

        Raises:
            UcanError: No chain of them holds.
            ValueError: There is no authority to call.
        """
        if self._authority is None:
            raise ValueError("a peer's call needs the cluster's DID")
        claim = Claim(issuer=caller, subject=self._authority, command=command, args={})
        return find_access(claim, delegations, self._circumstances(now_s, revocations))

    def holds_still(self, grant: Grant, *, now_s: int, revocations: Revocations) -> None:
        """Check an earlier grant again, as a stream does while it runs.

        Raises:
            UcanError: Why it does not hold any more.
        """
        check_chain(grant.claim, grant.chain, self._circumstances(now_s, revocations))

    def _circumstances(self, now_s: int, revocations: Revocations) -> Circumstances:
        return Circumstances(
            profile=self._profile,
            now_s=now_s,
            authority=self._authority,
            revocations=revocations,
        )

    def _read_delegation(self, token: bytes) -> Delegation:
        known = self._reader.remembered(cid_of_token(token))
        if known is not None:
            return known
        delegation = self._reader.delegation(open_envelope(token, profile=self._profile))
        self._reader.remember(delegation)
        return delegation

    def _read_signed(self, tokens: Sequence[bytes]) -> tuple[Invocation, list[Delegation]]:
        invocations: list[Envelope] = []
        found: dict[Cid, Delegation | Envelope] = {}
        for token in tokens:
            cid = cid_of_token(token)
            known = self._reader.remembered(cid)
            if known is not None:
                found[cid] = known
                continue
            envelope = open_envelope(token, profile=self._profile)
            if envelope.tag in INVOCATION_TAGS:
                invocations.append(envelope)
            else:
                found[cid] = envelope
        if len(invocations) != 1:
            raise malformed("a signed call carries one invocation")
        invocation = self._reader.invocation(invocations[0])
        return invocation, list(resolve(invocation, found, self._reader))


def resolve(
    invocation: Invocation, found: Mapping[Cid, Delegation | Envelope], reader: TokenReader
) -> Sequence[Delegation]:
    """The delegations that `invocation` names, verified, the root first.

    Raises:
        UcanError: UnavailableProof, or what is wrong with a delegation; with link and CID.
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
    """What an invocation asks."""
    return Claim(
        issuer=invocation.issuer,
        subject=invocation.subject,
        command=invocation.command,
        args=invocation.args,
    )
