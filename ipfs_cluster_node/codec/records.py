"""Records shared by the log and snapshots.

Reads records of older releases: an unset field means what it meant when it did not exist.
"""

from typing import Any, Final

from ipfs_cluster_node.codec.derived import By, Codec, codec
from ipfs_cluster_node.core.certificates import (
    Authority,
    CertificateRecord,
    CertificateRevocation,
)
from ipfs_cluster_node.core.delegations import StoredDelegation, StoredRevocation
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.model import (
    AttemptId,
    AttemptOutcome,
    Principal,
    TaskFailure,
    TaskInput,
    TaskResult,
    TaskSpec,
)
from ipfs_cluster_node.log.v1 import command_pb2 as pb

_WRAPS: Final = By(
    encode=lambda wraps: [pb.SealedKeyWrap(did=did, sealed=sealed) for did, sealed in wraps],
    decode=lambda wraps: tuple((Did(wrap.did), wrap.sealed) for wrap in wraps),
)

DELEGATION: Final = codec(StoredDelegation, pb.DelegationRecord, renamed={"cid": "digest"})
REVOCATION: Final = codec(
    StoredRevocation, pb.RevokeDelegation, renamed={"cid": "digest"}, unused="copies"
)
CERTIFICATE: Final = codec(CertificateRecord, pb.CertificateRecord)
CERTIFICATE_REVOCATION: Final = codec(CertificateRevocation, pb.RevokeCertificate)
AUTHORITY: Final = codec(Authority, pb.Authority, by={"wraps": _WRAPS})
PRINCIPAL: Final = codec(Principal, pb.Principal)
TASK_INPUT: Final = codec(TaskInput, pb.TaskInput)
TASK_SPEC: Final = codec(TaskSpec, pb.TaskSpec, codecs={TaskInput: TASK_INPUT})
TASK_RESULT: Final = codec(TaskResult, pb.TaskResult)
TASK_FAILURE: Final = codec(TaskFailure, pb.TaskFailure)
ATTEMPT_ID: Final = codec(AttemptId, pb.AttemptId)
ATTEMPT_OUTCOME: Final = codec(
    AttemptOutcome,
    pb.AttemptOutcome,
    codecs={AttemptId: ATTEMPT_ID, TaskResult: TASK_RESULT, TaskFailure: TASK_FAILURE},
)

RECORDS: Final[dict[type, Codec[Any, Any]]] = {
    StoredDelegation: DELEGATION,
    StoredRevocation: REVOCATION,
    CertificateRecord: CERTIFICATE,
    CertificateRevocation: CERTIFICATE_REVOCATION,
    Authority: AUTHORITY,
    Principal: PRINCIPAL,
    TaskSpec: TASK_SPEC,
    TaskResult: TASK_RESULT,
    TaskFailure: TASK_FAILURE,
    AttemptId: ATTEMPT_ID,
    AttemptOutcome: ATTEMPT_OUTCOME,
}
"""Codecs of the records in commands and rows."""
