"""Auth tokens of the kit: containers of UCAN delegations, verified by the cluster."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.client.sync import SyncClient
from ipfs_cluster_node.codec.ucan import TokenReader, open_envelope
from ipfs_cluster_node.codec.ucan_container import read_container, write_container
from ipfs_cluster_node.codec.ucan_mint import sign_delegation
from ipfs_cluster_node.config.credentials import IDENTITY_NAME
from ipfs_cluster_node.config.profiles import Profile
from ipfs_cluster_node.core import authorization as auth
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import Did, did_from_node_id, parse_node_id
from ipfs_cluster_node.core.ucan.commands import Command, covers
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.profiles import PRODUCT
from ipfs_cluster_node.kit.results import ErrorType, KitError
from ipfs_cluster_node.v1 import content_pb2, state_delta_pb2, task_dispatch_pb2

LIFETIME: Final = timedelta(hours=24)
CAPABILITIES: Final[Mapping[str, tuple[Command, ...]]] = MappingProxyType(
    {
        "read": (auth.TASK_READ, auth.CONTENT_READ, auth.STATE_READ),
        "write": (auth.TASK_SUBMIT, auth.CONTENT_ADD),
    }
)
"""What the seed's words mean; a command such as `/task/submit` is taken as it is."""
_SERVICES: Final = "/ipfs_cluster_node.v1."
_CALLS: Final[Mapping[Command, tuple[str, Any]]] = MappingProxyType(
    {
        auth.TASK_READ: ("TaskDispatchService/ListTasks", task_dispatch_pb2.ListTasksRequest()),
        auth.CONTENT_READ: ("ContentService/ListContent", content_pb2.ListContentRequest()),
        auth.STATE_READ: (
            "StateDeltaService/GetSnapshot",
            state_delta_pb2.GetSnapshotRequest(table=state_delta_pb2.STATE_TABLE_NODES),
        ),
        auth.TASK_SUBMIT: (
            "TaskDispatchService/SubmitTask",
            task_dispatch_pb2.SubmitTaskRequest(spec=task_dispatch_pb2.TaskSpec(task_type="echo")),
        ),
        auth.CONTENT_ADD: (
            "ContentService/AddContent",
            content_pb2.AddContentRequest(header=content_pb2.AddContentHeader(size_bytes=1)),
        ),
    }
)
"""A call under each command, of which the cluster is asked whether a token allows it."""


def did_of_peer(peer_id: str) -> Did:
    """The DID of a PeerID; raises KitError for one that is none."""
    try:
        return did_from_node_id(parse_node_id(peer_id))
    except ValueError as error:
        raise KitError(
            ErrorType.VALIDATION,
            f"{peer_id!r:.80} is no PeerID of an Ed25519 key; get_nodes shows that of each node",
        ) from error


def commands_of(capabilities: Iterable[str]) -> list[Command]:
    """The commands that capabilities stand for; raises KitError."""
    found: dict[Command, None] = {}
    for capability in capabilities:
        for command in CAPABILITIES.get(capability, (Command(capability),)):
            if command not in _CALLS:
                known = ", ".join((*CAPABILITIES, *_CALLS))
                raise KitError(
                    ErrorType.VALIDATION,
                    f"{capability!r:.80} is no capability; there are {known}",
                )
            found[command] = None
    if not found:
        raise KitError(ErrorType.VALIDATION, "Capabilities must be specified")
    return list(found)


def signed_token(
    client: SyncClient,
    profile: Profile,
    audience: Did,
    commands: Iterable[Command],
    timeout: timedelta,
) -> tuple[str, int]:
    """Delegate commands to `audience`; returns the container, and when it expires.

    The end is in seconds since 1970 (UTC).

    Raises:
        KitError: There is nothing to delegate from.
    """
    identity = Identity.load(profile.certificate.parent / IDENTITY_NAME)
    caller = client.get_caller(timeout=timeout)
    mine = [each for each in caller.delegations if each.audience == identity.did]
    expires_s = SYSTEM_CLOCK.wall_ms() // 1000 + int(LIFETIME.total_seconds())
    tokens = []
    for command in commands:
        wide = [each for each in mine if covers(Command(each.command), command)]
        if not wide:
            raise KitError(
                ErrorType.PERMISSION,
                f"this client was not delegated {command}; it can't pass it on",
            )
        if not any(each.issuer == caller.cluster_did for each in wide):
            # The cluster renews its own delegations, but not this one.
            expires_s = min(expires_s, max(each.expires_at_ms // 1000 for each in wide))
        tokens.append((command, [each.token for each in wide]))
    own = [
        sign_delegation(
            identity.private_key,
            audience=audience,
            subject=Did(caller.cluster_did),
            command=command,
            policy=[],
            expires_s=expires_s,
        )
        for command, _ in tokens
    ]
    before = [each.token for each in caller.delegations if each.audience != identity.did]
    proofs = [token for _, wide_tokens in tokens for token in wide_tokens]
    return write_container([*own, *dict.fromkeys([*proofs, *before])]), expires_s


def verified(client: SyncClient, peer: Did, container: str, timeout: timedelta) -> tuple[bool, str]:
    """Whether the cluster accepts a token of `peer` now, and why not.

    The cluster checks the signatures, the chain to itself, the times and the revocations, and that
    `peer` is a member.
    """
    try:
        tokens = read_container(container, profile=PRODUCT)
        reader = TokenReader(PRODUCT)
        found = [reader.delegation(open_envelope(token, profile=PRODUCT)) for token in tokens]
    except (UcanError, ValueError) as error:
        return False, f"not a token of this cluster: {error}"
    mine = {each.cid for each in found if each.audience == peer}
    if not mine:
        return False, f"the token is for another than {peer}"
    envelopes = dict(zip((each.cid for each in found), tokens, strict=True))
    proofs = [token for cid, token in envelopes.items() if cid not in mine]
    for each in found:
        if each.cid not in mine:
            continue
        asked = [command for command in _CALLS if covers(Command(each.command), command)]
        if not asked:
            return False, f"it allows what can't be checked: {each.command}"
        for command in asked:
            # One at a time, and without what the cluster stores for the peer: none of them may be
            # accepted for the sake of another.
            method, request = _CALLS[command]
            try:
                answer = client.explain_access(
                    f"{_SERVICES}{method}",
                    request.SerializeToString(),
                    did=peer,
                    tokens=[envelopes[each.cid], *proofs],
                    tokens_alone=True,
                    timeout=timeout,
                )
            except ClusterError as error:
                if error.reason.status in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                    raise
                return False, error.message
            if not answer.allowed:
                return False, f"the cluster does not accept it for {command}"
    return True, ""
