"""Revocations of delegations: their effect, and who may revoke what.

Source: ucan-wg/revocation, the draft of 2023-12 (its pull request 1).
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ipfs_cluster_node.core.dag_cbor import Link, Value
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import TOKEN_CODECS, Cid, parse_cid_binary
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError, malformed
from ipfs_cluster_node.core.ucan.tokens import Delegation

Revocations: TypeAlias = Mapping[Cid, frozenset[Did]]
"""The revokers of each revoked delegation, which may not have been seen yet."""


def revoked_link(
    chain: Sequence[Delegation], revocations: Revocations, authority: Did | None
) -> int | None:
    """The first link of `chain` that is revoked; None if none is.

    A revocation is effective if its revoker issued a link of this same chain, or is `authority`.
    """
    if not revocations:
        return None
    heeded = {delegation.issuer for delegation in chain}
    if authority is not None:
        heeded.add(authority)
    for link, delegation in enumerate(chain):
        if not heeded.isdisjoint(revocations.get(delegation.cid, ())):
            return link
    return None


def parse_revocation(args: Mapping[str, Value]) -> tuple[Cid, tuple[Cid, ...]]:
    """Read the arguments of `/ucan/revoke`: the revoked delegation, and the witness path.

    Raises:
        UcanError: Malformed: other fields, or not the CID of a token.
    """
    path = args.get("path", [])
    if not {"revoke"} <= args.keys() <= {"revoke", "path"} or not isinstance(path, list):
        raise malformed("a revocation has `revoke`, a link, and may have `path`, a list of links")
    return _token_cid(args["revoke"]), tuple(map(_token_cid, path))


def check_revoker(
    revoker: Did, revoked: Cid, path: Sequence[Delegation], *, authority: Did
) -> None:
    """Check that `revoker`, as authenticated by signature or TLS, may revoke `revoked`.

    `path` is the witness: verified delegations, root first, up to the revoked one at least.
    `authority`, the cluster's DID, needs none.

    Raises:
        UcanError: InvalidClaim: no such path from `authority`, or `revoker` issued none of its
            links up to the revoked one.
    """
    if revoker == authority:
        return
    holder = authority
    issuers = set()
    for link, delegation in enumerate(path):
        if delegation.issuer != holder or delegation.subject not in (authority, None):
            detail = "the path does not lead from the cluster, link by link"
            raise UcanError(Refusal.INVALID_CLAIM, detail, link=link, cid=delegation.cid)
        issuers.add(delegation.issuer)
        if delegation.cid == revoked and revoker in issuers:
            return
        holder = delegation.audience
    detail = "the revoker issued no link on the path to what is revoked"
    raise UcanError(Refusal.INVALID_CLAIM, detail, cid=revoked)


def token_cid(link: Link) -> Cid:
    """The CID of a token that `link` holds.

    Raises:
        UcanError: Malformed: not the CID of a token.
    """
    try:
        return parse_cid_binary(link.binary, codecs=TOKEN_CODECS)
    except ValueError:
        raise malformed("a link is not to a token") from None


def _token_cid(value: Value) -> Cid:
    if not isinstance(value, Link):
        raise malformed("a revocation names tokens by links")
    return token_cid(value)
