"""Signs delegations with the profile's identity, and decodes them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.delegations import delegation_to_proto
from ipfs_cluster_node.codec.ucan import TokenReader, cid_of_token, open_envelope
from ipfs_cluster_node.codec.ucan_container import read_container, write_container
from ipfs_cluster_node.codec.ucan_mint import sign_delegation
from ipfs_cluster_node.codec.views import DELEGATION as DELEGATION_VIEW
from ipfs_cluster_node.config.credentials import IDENTITY_NAME
from ipfs_cluster_node.config.profiles import load_profile
from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.delegable import check_delegable
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NAME_PATTERN, Did, NodeId, did_from_node_id
from ipfs_cluster_node.core.names import DELEGATION
from ipfs_cluster_node.core.ucan.commands import Command, covers, parse_command
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.minting import check_mintable
from ipfs_cluster_node.core.ucan.policies import fields_of, parse_policy
from ipfs_cluster_node.core.ucan.profiles import PRODUCT
from ipfs_cluster_node.core.views import ListedDelegation

CID_CHARS_MIN: Final = 40
"""CIDs of tokens have at least 49 characters, ids of join tokens far fewer."""
LIFETIME_MIN: Final = timedelta(seconds=1)
LIFETIME_MAX: Final = timedelta(seconds=PRODUCT.delegation_lifetime_s_max or 0)
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class SignedDelegation:
    """A signed delegation."""

    cid: str
    container: str
    """Includes its proofs, so that it can be used alone."""
    expires_s: int
    """In seconds since 1970: not later than its proofs."""
    audience: str
    """Its did:key, after its name if it was given by that."""


async def delegated(
    client: Client,
    profile: str | None,
    *,
    audience: str,
    command: str,
    where: Sequence[str],
    most: Sequence[str],
    policy: str | None,
    ttl: timedelta,
    keep: bool,
) -> SignedDelegation:
    """Sign a delegation, and store it in the cluster if wanted.

    It is valid no longer than its proofs, which the cluster renews with the certificate.

    Raises:
        ClusterError: INVALID_ARGUMENT, NOT_DELEGATED where there is nothing to delegate from, or
            the cluster's refusal.
    """
    if not LIFETIME_MIN <= ttl <= LIFETIME_MAX:
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"a delegation is valid for {LIFETIME_MIN.seconds} s to {LIFETIME_MAX.days} days; give "
            "another --ttl, and sign a new one when it expires",
        )
    identity = profile_identity(profile)
    try:
        asked = parse_command(command, chars_max=PRODUCT.command_chars_max)
        statements = policy_of(where, most, policy)
        parsed = parse_policy(statements, profile=PRODUCT)
        check_mintable(parsed)
        together = fields_of(parse_policy(policy_of(where, most, None), profile=PRODUCT))
        check_delegable(asked, fields_of(parsed) or (), together or ())
    except (ValueError, UcanError) as error:
        raise ClusterError(
            Reason.INVALID_ARGUMENT, f"that can't be delegated: {error}; see `--help`"
        ) from error
    member = await client.lookups.member(audience)
    to = did_from_node_id(NodeId(member.id))
    caller = await client.get_caller()
    mine = [d for d in caller.delegations if d.audience == identity.did]
    wide = [d for d in mine if covers(Command(d.command), asked)]
    if not wide:
        raise ClusterError(
            Reason.NOT_DELEGATED, f"none of your delegations covers {command}; see `auth whoami`"
        )
    ends_s = SYSTEM_CLOCK.wall_ms() // 1000 + int(ttl.total_seconds())
    if not any(d.issuer == caller.cluster_did for d in wide):
        # The cluster re-issues its own delegations with each certificate, but not this one.
        ends_s = min(ends_s, max(d.expires_at_ms // 1000 for d in wide))
    token = sign_delegation(
        identity.private_key,
        audience=to,
        subject=Did(caller.cluster_did),
        command=asked,
        policy=statements,
        expires_s=ends_s,
    )
    if keep:
        await client.put_delegation([token])
    before = [d for d in caller.delegations if d.audience != identity.did]
    container = write_container([token, *(d.token for d in (*wide, *before))])
    named = f"{member.name} ({to})" if member.name else to
    return SignedDelegation(str(cid_of_token(token)), container, ends_s, named)


def is_cid(text: str) -> bool:
    """Whether this is meant as a delegation's CID, even malformed, not as a join token's id.

    A beginning is, if it has the constant start of such CIDs.
    """
    return "." not in text and (len(text) >= CID_CHARS_MIN or text.startswith(DELEGATION.starts))


def is_member(text: str) -> bool:
    """Whether this names a member, as a DID or by name, and is no container nor a file with one."""
    named = NAME_PATTERN.fullmatch(text) is not None and not Path(text).is_file()
    return named or text.startswith("did:")


def profile_identity(profile: str | None) -> Identity:
    """The identity of a client's profile; raises CONFIG_INVALID, HOME_DAMAGED."""
    path = load_profile(profile).certificate.parent / IDENTITY_NAME
    if not path.is_file():
        raise ClusterError(
            Reason.CONFIG_INVALID,
            f"no identity at {path}; delegate with the profile of a client",
        )
    return Identity.load(path)


def limits_text(where: Sequence[str], most: Sequence[str], policy: str | None) -> str:
    """The options of a delegation that limit it, for people; empty if none does."""
    limits = [*where, *(text.replace("=", " at most ", 1) for text in most)]
    limits += [f"policy {policy}"] if policy else []
    return f" where {' and '.join(limits)}" if limits else ""


def policy_of(where: Sequence[str], most: Sequence[str], policy: str | None) -> list[Value]:
    """Build a policy from the options; raises ValueError for a malformed one."""
    statements: list[Value] = []
    for text in where:
        name, found, value = text.partition("=")
        if not found or not _NAME.fullmatch(name):
            raise ValueError(f"{text!r} is not NAME=VALUE")
        operator = "like" if "*" in value else "=="
        statements.append([operator, f".{name}", _typed(value) if operator == "==" else value])
    for text in most:
        name, found, value = text.partition("=")
        if not found or not _NAME.fullmatch(name) or not value.isdigit():
            raise ValueError(f"{text!r} is not NAME=NUMBER")
        statements.append(["<=", f".{name}", int(value)])
    if policy:
        given: Any = json.loads(policy)
        if not isinstance(given, list):
            raise ValueError("a policy is a list of statements")
        statements += given
    return statements


def _typed(value: str) -> Value:
    if value in ("true", "false"):
        return value == "true"
    return int(value) if value.isdigit() else value


def tokens_in(container: str) -> list[bytes]:
    """The tokens of a container; raises DELEGATION_INVALID."""
    try:
        return read_container(container, profile=PRODUCT)
    except UcanError as error:
        raise ClusterError(
            Reason.DELEGATION_INVALID, f"not a container of UCAN tokens: {error}; copy all of it"
        ) from error


def inspected(container: str) -> list[ListedDelegation]:
    """The delegations of a container, signatures checked; raises DELEGATION_INVALID."""
    reader = TokenReader(PRODUCT)
    found = []
    for token in tokens_in(container):
        try:
            delegation = reader.delegation(open_envelope(token, profile=PRODUCT))
        except UcanError as error:
            raise ClusterError(
                Reason.DELEGATION_INVALID, f"a token in the container is not valid: {error}"
            ) from error
        found.append(DELEGATION_VIEW.decode(delegation_to_proto(delegation, token)))
    return found


def audience_of(container: str) -> str:
    """The final audience of a container's delegations: the one that delegates no further.

    Raises:
        ClusterError: DELEGATION_INVALID.
    """
    found = inspected(container)
    last = {d.audience for d in found} - {d.issuer for d in found}
    if len(last) != 1:
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            "the container has several final audiences; name one by its did:key",
        )
    return last.pop()
