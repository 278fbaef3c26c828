"""Nodes, clients and content: core values to answers and back. Validates callers' input.

A function named `…_of` checks a field of a request; it raises INVALID_ARGUMENT, which names it.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration

from ipfs_cluster_node.codec.enums import GRANT, LIVENESS, ROLE
from ipfs_cluster_node.codec.tasks import duration_of_ms, name_of, timestamp_of_ms
from ipfs_cluster_node.core.authorization import GRANT_DEFAULT, check_grant_namespace
from ipfs_cluster_node.core.certificates import SERIAL_BYTES_MAX
from ipfs_cluster_node.core.errors import invalid_field
from ipfs_cluster_node.core.ids import (
    Did,
    NodeId,
    parse_did,
    parse_node_id,
    tls_name,
)
from ipfs_cluster_node.core.model import (
    ENDPOINTS_MAX,
    TASK_TYPES_MAX,
    Content,
    Joiner,
    JoinToken,
    Principal,
    Role,
)
from ipfs_cluster_node.v1 import content_pb2, enrolment_pb2
from ipfs_cluster_node.v1 import membership_pb2 as pb

SEAL_KEY_BYTES: Final = 32
CERTIFICATE_CHARS_MAX: Final = 8192
ENDPOINT_CHARS_MAX: Final = 260


def joiner_to_proto(token: JoinToken, joiner: Joiner) -> pb.Joiner:
    """Encode a joiner."""
    return pb.Joiner(
        did=joiner.did,
        token_id=token.token_id,
        role=ROLE.numbers[token.role],
        grant=GRANT.by.encode(token.grant),
        namespace=token.namespace,
        name=joiner.name,
        endpoints=joiner.endpoints,
        ask_time=timestamp_of_ms(joiner.asked_at_ms),
        expire_time=timestamp_of_ms(token.expires_at_ms),
        approved=joiner.approved,
    )


def join_token_to_proto(token: JoinToken) -> pb.JoinToken:
    """Encode a join token, without its secret."""
    return pb.JoinToken(
        token_id=token.token_id,
        role=ROLE.numbers[token.role],
        grant=GRANT.by.encode(token.grant),
        namespace=token.namespace,
        expire_time=timestamp_of_ms(token.expires_at_ms),
        uses_max=token.uses_max,
        use_count=len(token.dids),
        failure_count=token.failure_count,
        needs_approval=token.needs_approval,
        creator_did=token.creator,
    )


def seal_key_of(key: bytes) -> bytes:
    """Check an X25519 public key, or that there is none."""
    if len(key) not in (0, SEAL_KEY_BYTES):
        raise invalid_field("seal_key", f"{SEAL_KEY_BYTES} bytes")
    return key


def pem_of(text: str) -> bytes:
    """Check a certificate's size; its form is checked when it is parsed."""
    if len(text) > CERTIFICATE_CHARS_MAX:
        raise invalid_field("certificate_pem", f"at most {CERTIFICATE_CHARS_MAX} characters")
    return text.encode()


def serial_of(text: str, field: str = "serial") -> int:
    """Read a serial number in hexadecimal."""
    if not 1 <= len(text) <= 2 * SERIAL_BYTES_MAX or not set(text) <= set("0123456789abcdef"):
        raise invalid_field(field, "1 to 40 lower-case hexadecimal digits; see `cert list`")
    return int(text, 16)


def serial_text(serial: int) -> str:
    """The form of a serial number in all messages."""
    return f"{serial:x}"


def node_id_of(text: str, field: str = "node_id") -> NodeId:
    """Check a node id."""
    try:
        return parse_node_id(text)
    except ValueError as error:
        raise invalid_field(field, str(error)) from error


def did_of(text: str, field: str = "did") -> Did:
    """Check a DID."""
    try:
        return parse_did(text)
    except ValueError as error:
        raise invalid_field(field, str(error)) from error


def role_of(number: int, field: str = "role") -> Role:
    """Check a role."""
    return ROLE.word(number, field)


def grant_of(number: int, role: Role, field: str = "grant") -> str:
    """Check a joiner's preset; unset means its default."""
    if role is not Role.CLIENT:
        if number:
            raise invalid_field(
                field, "for clients only; a node's permissions follow from its role"
            )
        return ""
    return GRANT.word(number, field) if number else GRANT_DEFAULT


def ttl_of(ttl: Duration, field: str = "ttl") -> timedelta:
    """Read a lifetime; raises INVALID_ARGUMENT for one that no duration can have."""
    try:
        return ttl.ToTimedelta()
    except (ValueError, OverflowError) as error:
        raise invalid_field(field, "out of the range of durations") from error


def grant_namespace_of(text: str, grant: str, field: str = "namespace") -> str:
    """Check what a joiner's preset is limited to; empty: not limited."""
    if text:
        try:
            check_grant_namespace(grant, text)
        except ValueError as error:
            raise invalid_field(field, str(error)) from error
    return text


def endpoints_of(values: Sequence[str], field: str = "endpoints") -> tuple[str, ...]:
    """Check a list of addresses by count and length; they are parsed when dialled."""
    if len(values) > ENDPOINTS_MAX or any(len(value) > ENDPOINT_CHARS_MAX for value in values):
        raise invalid_field(field, f"at most {ENDPOINTS_MAX} of host:port")
    return tuple(values)


def task_types_of(values: Sequence[str]) -> tuple[str, ...]:
    """Check a list of task types, its count first."""
    if len(values) > TASK_TYPES_MAX:
        raise invalid_field("task_types", f"at most {TASK_TYPES_MAX}")
    return tuple(name_of(value, "task_types") for value in values)


def node_to_proto(
    node: Principal,
    voters: Container[NodeId],
    leader: NodeId | None,
    *,
    running_count: int = 0,
    content: tuple[int, int] | None = None,
) -> pb.Node:
    """Encode a node; `content` is the bytes that it stores and their age in milliseconds."""
    size_bytes, age_ms = (None, None) if content is None else content
    return pb.Node(
        node_id=node.node_id,
        name=node.name,
        role=ROLE.numbers[node.role],
        liveness=LIVENESS.numbers[node.liveness],
        endpoints=node.endpoints,
        voter=node.node_id in voters,
        leader=node.node_id == leader,
        task_types=node.task_types,
        slot_count=node.slot_count,
        running_attempt_count=running_count,
        version=node.version,
        enrol_time=timestamp_of_ms(node.enrolled_at_ms),
        liveness_time=timestamp_of_ms(node.liveness_at_ms),
        did=node.did,
        tls_name=tls_name(node.node_id),
        content_bytes=size_bytes,
        content_age=None if age_ms is None else duration_of_ms(age_ms),
    )


def nodes_to_proto(
    nodes: Iterable[Principal], voters: Container[NodeId], leader: NodeId | None
) -> list[pb.Node]:
    """Encode nodes in their order, without the number of their attempts."""
    return [node_to_proto(node, voters, leader) for node in nodes]


def master_to_proto(master: Principal) -> enrolment_pb2.MasterEndpoint:
    """Encode how a master is reached."""
    return enrolment_pb2.MasterEndpoint(
        node_id=master.node_id, endpoints=master.endpoints, tls_name=tls_name(master.node_id)
    )


def content_to_proto(
    content: Content,
    holders: Iterable[NodeId],
    nodes: Mapping[NodeId, Principal],
    *,
    goes_with: str,
    needed_by: str,
    needed_by_others: bool,
    namespaces: Iterable[str],
    kept_namespaces: Iterable[str],
) -> content_pb2.Content:
    """Encode a file with its holders' addresses, and what its caller may know of its use."""
    return content_pb2.Content(
        cid=content.cid,
        size_bytes=content.size_bytes,
        name=content.name,
        add_time=timestamp_of_ms(content.added_at_ms),
        goes_with=goes_with,
        needed_by=needed_by,
        needed_by_others=needed_by_others,
        namespaces=namespaces,
        kept_namespaces=kept_namespaces,
        holders=[
            content_pb2.ContentHolder(
                node_id=holder,
                endpoints=nodes[holder].endpoints if holder in nodes else (),
                tls_name=tls_name(holder),
            )
            for holder in holders
        ],
    )
