"""Commands of the log: core values to bytes and back.

Reads entries of older releases: an unset field means what it meant when it did not exist. Entries
of newer releases are not guessed at: a replica that can't apply one like the others must stop.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, get_args

from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-not-found]

from ipfs_cluster_node.codec.derived import Codec, by_hand, codec
from ipfs_cluster_node.codec.records import (
    CERTIFICATE_REVOCATION,
    RECORDS,
    REVOCATION,
)
from ipfs_cluster_node.core import commands as core
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.log.v1 import command_pb2 as pb

FORMAT: Final = 0
"""The newest command format that this release knows; raised if the old one would mislead."""


def _assign_tasks_to_log(body: core.AssignTasks) -> pb.AssignTasks:
    return pb.AssignTasks(
        task_ids=[task_id for task_id, _ in body.assignments],
        node_ids=[node_id for _, node_id in body.assignments],
    )


def _assign_tasks_from_log(message: pb.AssignTasks) -> core.AssignTasks:
    pairs = zip(map(TaskId, message.task_ids), map(NodeId, message.node_ids), strict=False)
    return core.AssignTasks(assignments=tuple(pairs))


def _revoke_delegation_to_log(body: core.RevokeDelegation) -> pb.RevokeDelegation:
    message = REVOCATION.encode(body.revocation)
    message.copies.extend(map(REVOCATION.encode, body.copies))
    return message


def _revoke_delegation_from_log(message: pb.RevokeDelegation) -> core.RevokeDelegation:
    copies = tuple(map(REVOCATION.decode, message.copies))
    return core.RevokeDelegation(revocation=REVOCATION.decode(message), copies=copies)


_BY_HAND: Final[Mapping[type, Codec[Any, Any]]] = {
    # One message that is the record itself, or pairs as two lists.
    core.AssignTasks: by_hand(_assign_tasks_to_log, _assign_tasks_from_log),
    core.RevokeDelegation: by_hand(_revoke_delegation_to_log, _revoke_delegation_from_log),
    core.RevokeCertificate: by_hand(
        lambda body: CERTIFICATE_REVOCATION.encode(body.revocation),
        lambda message: core.RevokeCertificate(revocation=CERTIFICATE_REVOCATION.decode(message)),
    ),
}
_RENAMED: Final[Mapping[type, Mapping[str, str]]] = {
    core.SetLiveness: {"alive": "alive_node_ids", "dead": "dead_node_ids"},
    core.AddContent: {"holders": "node_ids"},
}


def _codec_of(kind: type) -> Codec[Any, Any]:
    if kind in _BY_HAND:
        return _BY_HAND[kind]
    message = getattr(pb, kind.__name__)
    return codec(kind, message, codecs=RECORDS, renamed=_RENAMED.get(kind))


def _field_of(kind: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


_CODECS: Final = {kind: (_field_of(kind), _codec_of(kind)) for kind in get_args(core.CommandBody)}
_DECODERS: Final = dict(_CODECS.values())
"""By the name of the field that holds the command."""


def encode_command(command: core.LogCommand) -> bytes:
    """Encode a command for the log."""
    field, its = _CODECS[type(command.body)]
    body: dict[str, Any] = {field: its.named(command.body)}
    message = pb.Command(
        at_ms=command.at_ms, caller=command.caller, request_id=command.request_id, **body
    )
    return message.SerializeToString()


def decode_command(data: bytes) -> core.LogCommand:
    """Decode a command of the log.

    Raises:
        ClusterError: RELEASE_TOO_OLD for a command of a newer release, INTERNAL if there is none.
        DecodeError: The bytes are not a message.
    """
    message = pb.Command.FromString(data)
    kind = message.WhichOneof("command")
    if message.format > FORMAT or (kind is None and len(UnknownFieldSet(message))):
        raise ClusterError(
            Reason.RELEASE_TOO_OLD,
            "the cluster's log holds a command of a newer release, which this one can't carry out; "
            "install the newer release on this node and start it again: nothing is lost",
        )
    if kind is None:
        raise ClusterError(Reason.INTERNAL, "an entry of the log holds no command")
    return core.LogCommand(
        at_ms=message.at_ms,
        caller=message.caller,
        request_id=message.request_id,
        body=_DECODERS[kind].decode(getattr(message, kind)),
    )
