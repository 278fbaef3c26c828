"""Identifies the caller by its TLS certificate, and its class by the log."""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from ipfs_cluster_node.access.call_tokens import Context
from ipfs_cluster_node.access.context import JOINER, Caller, CallerClass
from ipfs_cluster_node.access.revocations import Revocations
from ipfs_cluster_node.adapters.keys.certificates import PeerIdentity, PeerVerifier
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did, NodeId
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.core.state import ClusterState

TLS_VERSION = "TLSv1.3"
REMOVED_KEY: Final = "removed"
"""In the metadata of the error that tells a member that it was removed for good."""

UNHEARD_RETRY_AFTER: Final = timedelta(milliseconds=300)


class MemberIdentification:
    """Identifies callers on the port with mutual TLS."""

    def __init__(
        self,
        *,
        known_state: Callable[[], ClusterState | None],
        is_master: Callable[[NodeId], bool],
        now_ms: Callable[[], int],
        revocations: Revocations | None = None,
    ) -> None:
        """Use the log; while there is none, or an empty one, use what the leader sent.

        `known_state` returns the state, None while there is none.
        `is_master` tells which nodes the leader named as masters. Certificates are judged by
        `now_ms`, also while their connection lasts.
        """
        self._now_ms = now_ms
        self._revocations = revocations or Revocations()
        self._known_state = known_state
        self._is_master = is_master
        self._verifier = PeerVerifier()
        self._callers: dict[tuple[Did, CallerClass], Caller] = {}
        """At most one for each member that called."""

    def __call__(self, context: Context) -> Caller:
        """Identify a call's caller, and check its certificate."""
        transport = context.auth_context()
        certificates = transport.get("x509_pem_cert")
        if not certificates:
            raise ClusterError(
                Reason.CALLER_UNKNOWN, "a certificate of this cluster is needed; enrol first"
            )
        # Python's gRPC can't set a minimum version: older ones are refused here.
        if next(iter(transport.get("ssl_tls_version", ())), b"").decode() != TLS_VERSION:
            raise ClusterError(Reason.CALLER_UNKNOWN, f"only {TLS_VERSION} is accepted here")
        certificate = next(iter(certificates))
        peer = self._verifier.verify(
            certificate if isinstance(certificate, bytes) else certificate.encode(),
            self._now_ms(),
        )
        known = (peer.did, self._class_of(peer))
        caller = self._callers.get(known)
        if caller is None:
            caller = self._callers[known] = Caller(*known)
        return caller

    def _class_of(self, peer: PeerIdentity) -> CallerClass:
        state = self._known_state()
        if state is None:
            # Masters, nodes and revocations are known from the leader.
            if self._revocations.revokes_certificate(peer.serial, peer.did):
                raise _revoked(peer)
            if not peer.is_node:
                return CallerClass.CLIENT
            if self._is_master(peer.node_id):
                return CallerClass.MASTER
            if self._revocations.knows_node(peer.did):
                return CallerClass.NODE
            if self._revocations.version == 0:  # Not received yet: absence means nothing.
                raise ClusterError(
                    Reason.NO_LEADER,
                    "this node has not received the list of members yet; try again in a moment, "
                    "or ask another node",
                    retry_after=UNHEARD_RETRY_AFTER,
                )
            raise _unknown(peer)
        if state.certificates.is_revoked(peer.serial, peer.did):
            raise _revoked(peer)
        principal = state.members.get(peer.did)
        if principal is None and peer.is_node and self._is_master(peer.node_id):
            # It joined while this node was away, and may lead now: only it can send the entry that
            # says so. The uplink learned of it from the leader that this node's masters named.
            return CallerClass.MASTER
        if principal is not None and principal.removed:
            raise ClusterError(
                Reason.CALLER_UNKNOWN,
                f"{peer.did} was removed from this cluster for good; join with a new identity, in "
                "another --home",
                metadata={REMOVED_KEY: "true"},
            )
        if principal is None or principal.is_node != peer.is_node:
            raise _unknown(peer)
        if principal.role is Role.CLIENT:
            return CallerClass.CLIENT
        return CallerClass.MASTER if principal.role is Role.MASTER else CallerClass.NODE


def _unknown(peer: PeerIdentity) -> ClusterError:
    return ClusterError(
        Reason.CALLER_UNKNOWN, f"{peer.did} is not a member of this cluster; enrol it first"
    )


def _revoked(peer: PeerIdentity) -> ClusterError:
    return ClusterError(
        Reason.CERTIFICATE_REVOKED,
        f"the certificate {peer.serial:x} of {peer.did} is revoked; have the member "
        "removed, and join with a new identity",
    )


def identify_joiner(_context: Context) -> Caller:
    """Identify a caller on the enrolment port: it has no certificate yet."""
    return JOINER
