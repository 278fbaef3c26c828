"""Records of the log and of snapshots, as both keep them: core values to protos and back.

Reads what older releases wrote: an unset field means what it meant when it did not exist.
"""

from ipfs_cluster_node.core.certificates import (
    Authority,
    CertificateRecord,
    CertificateRevocation,
    RotationPhase,
)
from ipfs_cluster_node.core.delegations import StoredDelegation, StoredRevocation
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.model import (
    Liveness,
    Principal,
    Role,
    TaskFailure,
    TaskInput,
    TaskResult,
    TaskSpec,
)
from ipfs_cluster_node.core.multiformats import DAG_CBOR, Cid
from ipfs_cluster_node.log.v1 import command_pb2 as pb


def delegation_to_log(delegation: StoredDelegation) -> pb.DelegationRecord:
    """Encode a delegation that is kept."""
    return pb.DelegationRecord(
        token=delegation.token,
        digest=delegation.cid.digest,
        issuer=delegation.issuer,
        audience=delegation.audience,
        expires_s=delegation.expires_s,
        put_at_ms=delegation.put_at_ms,
        put_by=delegation.put_by,
    )


def delegation_from_log(record: pb.DelegationRecord) -> StoredDelegation:
    """Decode a delegation that is kept."""
    return StoredDelegation(
        cid=Cid(DAG_CBOR, record.digest),
        token=record.token,
        issuer=Did(record.issuer),
        audience=Did(record.audience),
        expires_s=record.expires_s,
        put_at_ms=record.put_at_ms,
        put_by=record.put_by,
    )


def revocation_to_log(revocation: StoredRevocation) -> pb.RevokeDelegation:
    """Encode a revocation."""
    return pb.RevokeDelegation(
        digest=revocation.cid.digest, revoker=revocation.revoker, until_s=revocation.until_s
    )


def revocation_from_log(record: pb.RevokeDelegation) -> StoredRevocation:
    """Decode a revocation."""
    return StoredRevocation(Cid(DAG_CBOR, record.digest), Did(record.revoker), record.until_s)


def certificate_to_log(record: CertificateRecord) -> pb.CertificateRecord:
    """Encode a certificate that was handed out."""
    return pb.CertificateRecord(
        serial=serial_bytes(record.serial),
        did=record.did,
        spki_hash=record.spki_hash,
        not_after_s=record.not_after_s,
        issued_at_ms=record.issued_at_ms,
        epoch=record.epoch,
    )


def certificate_from_log(message: pb.CertificateRecord) -> CertificateRecord:
    """Decode a certificate that was handed out."""
    return CertificateRecord(
        serial=int.from_bytes(message.serial),
        did=Did(message.did),
        spki_hash=message.spki_hash,
        not_after_s=message.not_after_s,
        issued_at_ms=message.issued_at_ms,
        epoch=message.epoch,
    )


def serial_bytes(serial: int) -> bytes:
    """A serial number, big-endian, in as few bytes as it needs."""
    return serial.to_bytes((serial.bit_length() + 7) // 8)


def certificate_revocation_to_log(revocation: CertificateRevocation) -> pb.RevokeCertificate:
    """Encode a revocation of certificates."""
    return pb.RevokeCertificate(
        serial=serial_bytes(revocation.serial), did=revocation.did, until_s=revocation.until_s
    )


def certificate_revocation_from_log(message: pb.RevokeCertificate) -> CertificateRevocation:
    """Decode a revocation of certificates."""
    return CertificateRevocation(
        serial=int.from_bytes(message.serial), did=Did(message.did), until_s=message.until_s
    )


def authority_to_log(authority: Authority) -> pb.Authority:
    """Encode the sealed keys and the roots."""
    return pb.Authority(
        version=authority.version,
        key_id=authority.key_id,
        ciphertext=authority.ciphertext,
        wraps=[pb.SealedKeyWrap(did=did, sealed=sealed) for did, sealed in authority.wraps],
        recovery_key=authority.recovery_key,
        recovery_wrap=authority.recovery_wrap,
        roots=authority.roots,
        signer=authority.signer,
        epoch=authority.epoch,
        phase=authority.phase,
        phase_at_ms=authority.phase_at_ms,
    )


def authority_from_log(message: pb.Authority) -> Authority:
    """Decode the sealed keys and the roots; an unset one is of a log that has none."""
    return Authority(
        version=message.version,
        key_id=message.key_id,
        ciphertext=message.ciphertext,
        wraps=tuple((Did(wrap.did), wrap.sealed) for wrap in message.wraps),
        recovery_key=message.recovery_key,
        recovery_wrap=message.recovery_wrap,
        roots=tuple(message.roots),
        signer=message.signer,
        epoch=message.epoch,
        phase=RotationPhase(message.phase or RotationPhase.STEADY),
        phase_at_ms=message.phase_at_ms,
    )


def principal_to_log(principal: Principal) -> pb.Principal:
    """Encode a principal."""
    return pb.Principal(
        did=principal.did,
        name=principal.name,
        role=principal.role,
        endpoints=principal.endpoints,
        incarnation=principal.incarnation,
        enrolled_at_ms=principal.enrolled_at_ms,
        removed=principal.removed,
        liveness=principal.liveness,
        liveness_at_ms=principal.liveness_at_ms,
        task_types=principal.task_types,
        slot_count=principal.slot_count,
        version=principal.version,
        grant=principal.grant,
        seal_key=principal.seal_key,
        enrolment_endpoints=principal.enrolment_endpoints,
    )


def principal_from_log(message: pb.Principal) -> Principal:
    """Decode a principal."""
    return Principal(
        did=Did(message.did),
        name=message.name,
        role=Role(message.role),
        endpoints=tuple(message.endpoints),
        incarnation=message.incarnation,
        enrolled_at_ms=message.enrolled_at_ms,
        removed=message.removed,
        liveness=Liveness(message.liveness),
        liveness_at_ms=message.liveness_at_ms,
        task_types=tuple(message.task_types),
        slot_count=message.slot_count,
        version=message.version,
        grant=message.grant,
        seal_key=message.seal_key,
        enrolment_endpoints=tuple(message.enrolment_endpoints),
    )


def spec_to_log(spec: TaskSpec) -> pb.TaskSpec:
    """Encode what a submitter asked for."""
    return pb.TaskSpec(
        task_type=spec.task_type,
        payload=spec.payload,
        content_type=spec.content_type,
        inputs=[pb.TaskInput(name=i.name, cid=i.cid, format=i.format) for i in spec.inputs],
        attempt_timeout_ms=spec.attempt_timeout_ms,
        attempt_count_max=spec.attempt_count_max,
        priority=spec.priority,
        namespace=spec.namespace,
    )


def spec_from_log(message: pb.TaskSpec) -> TaskSpec:
    """Decode what a submitter asked for."""
    return TaskSpec(
        task_type=message.task_type,
        payload=message.payload,
        content_type=message.content_type,
        inputs=tuple(TaskInput(i.name, i.cid, i.format) for i in message.inputs),
        attempt_timeout_ms=message.attempt_timeout_ms,
        attempt_count_max=message.attempt_count_max,
        priority=message.priority,
        namespace=message.namespace,
    )


def result_to_log(result: TaskResult) -> pb.TaskResult:
    """Encode a result."""
    return pb.TaskResult(
        data=result.data,
        content_type=result.content_type,
        cid=result.cid,
        size_bytes=result.size_bytes,
    )


def result_from_log(message: pb.TaskResult) -> TaskResult:
    """Decode a result."""
    return TaskResult(
        data=message.data,
        content_type=message.content_type,
        cid=message.cid,
        size_bytes=message.size_bytes,
    )


def failure_to_log(failure: TaskFailure) -> pb.TaskFailure:
    """Encode a failure."""
    return pb.TaskFailure(
        reason=failure.reason, message=failure.message, output_tail=failure.output_tail
    )


def failure_from_log(message: pb.TaskFailure) -> TaskFailure:
    """Decode a failure."""
    return TaskFailure(Reason(message.reason), message.message, message.output_tail)
