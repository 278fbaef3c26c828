"""Commands of the log: core values to bytes and back.

Reads what older releases wrote: an unset field means what it meant when it did not exist. What a
newer release wrote is not guessed at: who can't carry it out as the others do must stop.
"""

from collections.abc import Callable, Mapping, MutableMapping
from typing import Final

from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-not-found]

from ipfs_cluster_node.codec.records import (
    authority_from_log,
    authority_to_log,
    certificate_from_log,
    certificate_revocation_from_log,
    certificate_revocation_to_log,
    certificate_to_log,
    delegation_from_log,
    delegation_to_log,
    failure_from_log,
    failure_to_log,
    principal_from_log,
    principal_to_log,
    result_from_log,
    result_to_log,
    revocation_from_log,
    revocation_to_log,
    spec_from_log,
    spec_to_log,
)
from ipfs_cluster_node.core import commands as core
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId
from ipfs_cluster_node.core.model import (
    AttemptId,
    AttemptOutcome,
    Role,
)
from ipfs_cluster_node.log.v1 import command_pb2 as pb

FORMAT: Final = 0
"""The newest format of a command that this release knows; it grows where an old one misleads."""


def encode_command(command: core.Command) -> bytes:
    """Encode a command for the log."""
    message = pb.Command(at_ms=command.at_ms, caller=command.caller, request_id=command.request_id)
    match command.body:
        case core.BootstrapCluster() as body:
            message.bootstrap_cluster.cluster_id = body.cluster_id
            message.bootstrap_cluster.cluster_name = body.cluster_name
            message.bootstrap_cluster.cluster_did = body.cluster_did
            message.bootstrap_cluster.principals.extend(map(principal_to_log, body.principals))
            message.bootstrap_cluster.delegations.extend(map(delegation_to_log, body.delegations))
            message.bootstrap_cluster.authority.CopyFrom(authority_to_log(body.authority))
            message.bootstrap_cluster.certificates.extend(
                map(certificate_to_log, body.certificates)
            )
        case core.CreateJoinToken() | core.DecideJoiner() | core.RedeemJoinToken():
            _encode_join_command(message, command.body)
        case core.RevokeJoinToken() as body:
            message.revoke_join_token.token_id = body.token_id
        case core.RegisterNode() as body:
            message.register_node.CopyFrom(
                pb.RegisterNode(
                    node_id=body.node_id,
                    endpoints=body.endpoints,
                    task_types=body.task_types,
                    slot_count=body.slot_count,
                    version=body.version,
                    seal_key=body.seal_key,
                    enrolment_endpoints=body.enrolment_endpoints,
                )
            )
        case core.SetLiveness() as body:
            message.set_liveness.SetInParent()
            message.set_liveness.alive_node_ids.extend(body.alive)
            message.set_liveness.dead_node_ids.extend(body.dead)
        case core.RemoveNode() as body:
            message.remove_node.node_id = body.node_id
        case core.ReplaceLog() as body:
            message.replace_log.node_id = body.node_id
            message.replace_log.incarnation = body.incarnation
        case core.ProposeConfig() as body:
            _put_all(message.propose_config.values, body.values)
            _put_all(message.propose_config.if_values, body.if_values)
        case core.AddContent() as body:
            message.add_content.CopyFrom(
                pb.AddContent(
                    cid=body.cid, size_bytes=body.size_bytes, node_ids=body.holders, name=body.name
                )
            )
        case core.PutDelegation() as body:
            message.put_delegation.SetInParent()
            message.put_delegation.delegations.extend(map(delegation_to_log, body.delegations))
        case core.RevokeDelegation() as body:
            message.revoke_delegation.CopyFrom(revocation_to_log(body.revocation))
            message.revoke_delegation.copies.extend(map(revocation_to_log, body.copies))
        case core.ExpireRecords() as body:
            message.expire_records.SetInParent()
            message.expire_records.count_max = body.count_max
            message.expire_records.goes_on = body.goes_on
        case core.IssueCertificate() | core.RevokeCertificate() | core.SetAuthority():
            _encode_certificate_command(message, command.body)
        case _:
            _encode_task_command(message, command.body)
    return message.SerializeToString()


def _encode_join_command(message: pb.Command, body: core.CommandBody) -> None:
    match body:
        case core.CreateJoinToken():
            message.create_join_token.CopyFrom(
                pb.CreateJoinToken(
                    token_id=body.token_id,
                    secret_hash=body.secret_hash,
                    role=body.role,
                    expires_at_ms=body.expires_at_ms,
                    uses_max=body.uses_max,
                    addresses=body.addresses,
                    grant=body.grant,
                    needs_approval=body.needs_approval,
                )
            )
        case core.DecideJoiner():
            message.decide_joiner.CopyFrom(
                pb.DecideJoiner(token_id=body.token_id, did=body.did, approved=body.approved)
            )
        case core.RedeemJoinToken():
            message.redeem_join_token.CopyFrom(
                pb.RedeemJoinToken(
                    token_id=body.token_id,
                    secret_hash=body.secret_hash,
                    did=body.did,
                    name=body.name,
                    endpoints=body.endpoints,
                    seal_key=body.seal_key,
                )
            )


def _encode_certificate_command(message: pb.Command, body: core.CommandBody) -> None:
    match body:
        case core.IssueCertificate():
            message.issue_certificate.record.CopyFrom(certificate_to_log(body.record))
        case core.RevokeCertificate():
            message.revoke_certificate.CopyFrom(certificate_revocation_to_log(body.revocation))
        case core.SetAuthority():
            message.set_authority.authority.CopyFrom(authority_to_log(body.authority))
            message.set_authority.asked = body.asked


def _put_all(field: MutableMapping[str, str], values: Mapping[str, str]) -> None:
    """Fill a map field; its `update` takes five times as long."""
    for key, value in values.items():
        field[key] = value


def _encode_task_command(message: pb.Command, body: core.CommandBody) -> None:
    match body:
        case core.SubmitTasks():
            message.submit_tasks.task_ids.extend(body.task_ids)
            message.submit_tasks.specs.extend(map(spec_to_log, body.specs))
            message.submit_tasks.fingerprint = body.fingerprint
        case core.AssignTasks():
            message.assign_tasks.task_ids.extend(task_id for task_id, _ in body.assignments)
            message.assign_tasks.node_ids.extend(node_id for _, node_id in body.assignments)
        case core.FinishAttempts():
            message.finish_attempts.node_id = body.node_id
            for outcome in body.outcomes:
                entry = message.finish_attempts.outcomes.add(
                    retryable=outcome.retryable, handed_back=outcome.handed_back
                )
                entry.id.task_id, entry.id.attempt = outcome.id.task_id, outcome.id.attempt
                if outcome.result is not None:
                    entry.result.CopyFrom(result_to_log(outcome.result))
                if outcome.failure is not None:
                    entry.failure.CopyFrom(failure_to_log(outcome.failure))
        case core.RequeueAttempts():
            message.requeue_attempts.SetInParent()
            for attempt in body.ids:
                message.requeue_attempts.ids.add(task_id=attempt.task_id, attempt=attempt.attempt)
        case core.CancelTask():
            message.cancel_task.task_id = body.task_id
        case _:
            raise TypeError(f"{type(body).__name__} has no place in the log")


def decode_command(data: bytes) -> core.Command:
    """Decode a command of the log.

    Raises:
        ClusterError: RELEASE_TOO_OLD for a command of a newer release, INTERNAL for bytes that hold
            none.
        DecodeError: Bytes that are no message.
    """
    message = pb.Command.FromString(data)
    kind = message.WhichOneof("command")
    if message.format > FORMAT or (kind is None and len(UnknownFieldSet(message))):
        raise ClusterError(
            Reason.RELEASE_TOO_OLD,
            "the cluster's log holds a command of a newer release, which this one can't carry out; "
            "install the newer release on this node and start it again: nothing is lost",
        )
    decoder = _DECODERS.get(kind or "")
    if decoder is None:
        raise ClusterError(Reason.INTERNAL, "an entry of the log holds no command")
    return core.Command(
        at_ms=message.at_ms,
        caller=message.caller,
        request_id=message.request_id,
        body=decoder(message),
    )


def _bootstrap_cluster(message: pb.Command) -> core.CommandBody:
    body = message.bootstrap_cluster
    return core.BootstrapCluster(
        cluster_id=body.cluster_id,
        cluster_name=body.cluster_name,
        cluster_did=Did(body.cluster_did),
        principals=tuple(map(principal_from_log, body.principals)),
        delegations=tuple(map(delegation_from_log, body.delegations)),
        authority=authority_from_log(body.authority),
        certificates=tuple(map(certificate_from_log, body.certificates)),
    )


def _create_join_token(message: pb.Command) -> core.CommandBody:
    body = message.create_join_token
    return core.CreateJoinToken(
        token_id=body.token_id,
        secret_hash=body.secret_hash,
        role=Role(body.role),
        expires_at_ms=body.expires_at_ms,
        uses_max=body.uses_max,
        addresses=tuple(body.addresses),
        grant=body.grant,
        needs_approval=body.needs_approval,
    )


def _decide_joiner(message: pb.Command) -> core.CommandBody:
    body = message.decide_joiner
    return core.DecideJoiner(token_id=body.token_id, did=Did(body.did), approved=body.approved)


def _redeem_join_token(message: pb.Command) -> core.CommandBody:
    body = message.redeem_join_token
    return core.RedeemJoinToken(
        token_id=body.token_id,
        secret_hash=body.secret_hash,
        did=Did(body.did),
        name=body.name,
        endpoints=tuple(body.endpoints),
        seal_key=body.seal_key,
    )


def _register_node(message: pb.Command) -> core.CommandBody:
    body = message.register_node
    return core.RegisterNode(
        node_id=NodeId(body.node_id),
        endpoints=tuple(body.endpoints),
        task_types=tuple(body.task_types),
        slot_count=body.slot_count,
        version=body.version,
        seal_key=body.seal_key,
        enrolment_endpoints=tuple(body.enrolment_endpoints),
    )


def _set_liveness(message: pb.Command) -> core.CommandBody:
    body = message.set_liveness
    return core.SetLiveness(
        alive=tuple(map(NodeId, body.alive_node_ids)), dead=tuple(map(NodeId, body.dead_node_ids))
    )


def _submit_tasks(message: pb.Command) -> core.CommandBody:
    body = message.submit_tasks
    return core.SubmitTasks(
        task_ids=tuple(map(TaskId, body.task_ids)),
        specs=tuple(map(spec_from_log, body.specs)),
        fingerprint=body.fingerprint,
    )


def _assign_tasks(message: pb.Command) -> core.CommandBody:
    body = message.assign_tasks
    return core.AssignTasks(
        assignments=tuple(zip(map(TaskId, body.task_ids), map(NodeId, body.node_ids), strict=False))
    )


def _finish_attempts(message: pb.Command) -> core.CommandBody:
    body = message.finish_attempts
    return core.FinishAttempts(
        node_id=NodeId(body.node_id),
        outcomes=tuple(
            AttemptOutcome(
                id=AttemptId(TaskId(outcome.id.task_id), outcome.id.attempt),
                result=result_from_log(outcome.result) if outcome.HasField("result") else None,
                failure=failure_from_log(outcome.failure) if outcome.HasField("failure") else None,
                retryable=outcome.retryable,
                handed_back=outcome.handed_back,
            )
            for outcome in body.outcomes
        ),
    )


def _requeue_attempts(message: pb.Command) -> core.CommandBody:
    return core.RequeueAttempts(
        ids=tuple(AttemptId(TaskId(a.task_id), a.attempt) for a in message.requeue_attempts.ids)
    )


def _add_content(message: pb.Command) -> core.CommandBody:
    body = message.add_content
    return core.AddContent(
        cid=body.cid,
        size_bytes=body.size_bytes,
        holders=tuple(map(NodeId, body.node_ids)),
        name=body.name,
    )


_DECODERS: Mapping[str, Callable[[pb.Command], core.CommandBody]] = {
    "bootstrap_cluster": _bootstrap_cluster,
    "create_join_token": _create_join_token,
    "redeem_join_token": _redeem_join_token,
    "revoke_join_token": lambda m: core.RevokeJoinToken(token_id=m.revoke_join_token.token_id),
    "decide_joiner": _decide_joiner,
    "register_node": _register_node,
    "set_liveness": _set_liveness,
    "remove_node": lambda m: core.RemoveNode(node_id=NodeId(m.remove_node.node_id)),
    "replace_log": lambda m: core.ReplaceLog(
        node_id=NodeId(m.replace_log.node_id), incarnation=m.replace_log.incarnation
    ),
    "propose_config": lambda m: core.ProposeConfig(
        values=dict(m.propose_config.values.items()),
        if_values=dict(m.propose_config.if_values.items()),
    ),
    "submit_tasks": _submit_tasks,
    "assign_tasks": _assign_tasks,
    "finish_attempts": _finish_attempts,
    "requeue_attempts": _requeue_attempts,
    "cancel_task": lambda m: core.CancelTask(task_id=TaskId(m.cancel_task.task_id)),
    "expire_records": lambda m: core.ExpireRecords(
        count_max=m.expire_records.count_max, goes_on=m.expire_records.goes_on
    ),
    "add_content": _add_content,
    "put_delegation": lambda m: core.PutDelegation(
        delegations=tuple(map(delegation_from_log, m.put_delegation.delegations))
    ),
    "revoke_delegation": lambda m: core.RevokeDelegation(
        revocation=revocation_from_log(m.revoke_delegation),
        copies=tuple(map(revocation_from_log, m.revoke_delegation.copies)),
    ),
    "issue_certificate": lambda m: core.IssueCertificate(
        record=certificate_from_log(m.issue_certificate.record)
    ),
    "revoke_certificate": lambda m: core.RevokeCertificate(
        revocation=certificate_revocation_from_log(m.revoke_certificate)
    ),
    "set_authority": lambda m: core.SetAuthority(
        authority=authority_from_log(m.set_authority.authority), asked=m.set_authority.asked
    ),
}
