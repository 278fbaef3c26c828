"""The commands of a recording: each kind, and each field of each record, at least once.

A new kind of command or a new field is added here, and a new recording is made beside the earlier
ones, which stay as they are: `python -m tests.recorded.recorder`.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.certificates import (
    Authority,
    CertificateRecord,
    CertificateRevocation,
    RotationPhase,
)
from ipfs_cluster_node.core.delegations import StoredDelegation, StoredRevocation
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import Did, TaskId, did_from_public_key, node_id_from_did
from ipfs_cluster_node.core.model import (
    AttemptId,
    AttemptOutcome,
    Liveness,
    Principal,
    Role,
    TaskFailure,
    TaskInput,
    TaskResult,
    TaskSpec,
)
from ipfs_cluster_node.core.multiformats import DAG_CBOR, RAW, cid_of
from ipfs_cluster_node.core.settings import SETTINGS

BEGIN_MS: Final = 1_800_000_000_000
HOUR_MS: Final = 3_600_000
DAY_S: Final = 86_400


def did(number: int) -> Did:
    return did_from_public_key(bytes([number]) * 32)


CLUSTER, MASTER, SECOND, WORKER, DEAD, LEECHER, REMOVED, OPERATOR = map(did, range(1, 9))
ALICE, BOB, WAITING, REFUSED = map(did, range(9, 13))
ROLES: Final = {
    SECOND: Role.MASTER,
    WORKER: Role.WORKER,
    DEAD: Role.WORKER,
    LEECHER: Role.LEECHER,
    REMOVED: Role.WORKER,
    ALICE: Role.CLIENT,
    BOB: Role.CLIENT,
}


def commands() -> Iterator[c.LogCommand]:
    """The history, in order. Each is a second after the one before."""
    at_ms = BEGIN_MS
    for number, entry in enumerate(_entries()):
        at_ms += 1000
        request_id = f"request-{number}" if entry.get("caller") and "again" not in entry else ""
        yield c.LogCommand(
            at_ms=entry.get("at_ms", at_ms),
            body=entry["body"],
            caller=entry.get("caller", ""),
            request_id=entry.get("again", request_id),
        )


def _of(body: c.CommandBody, caller: str = "", **more: Any) -> dict[str, Any]:
    return {"body": body, "caller": caller, **more}


def _entries() -> Iterator[dict[str, Any]]:
    yield _of(_bootstrap())
    yield from _members()
    yield from _settings()
    yield from _contents()
    yield from _tasks()
    yield from _delegations()
    yield from _certificates()
    yield from _endings()


def _bootstrap() -> c.BootstrapCluster:
    return c.BootstrapCluster(
        cluster_id="4b1d",
        cluster_name="recorded",
        cluster_did=CLUSTER,
        principals=(
            Principal(
                did=MASTER,
                name="first",
                role=Role.MASTER,
                endpoints=("10.0.0.1:7946", "master.example:7946"),
                incarnation=1,
                enrolled_at_ms=BEGIN_MS,
                liveness=Liveness.ALIVE,
                liveness_at_ms=BEGIN_MS,
                task_types=("echo",),
                slot_count=1,
                version="0.1.0",
                seal_key=b"s" * 32,
                enrolment_endpoints=("10.0.0.1:7947",),
            ),
            Principal(
                did=OPERATOR,
                name="operator",
                role=Role.CLIENT,
                enrolled_at_ms=BEGIN_MS,
                liveness_at_ms=BEGIN_MS,
                grant="admin",
            ),
            Principal(
                did=did(13),
                name="gone",
                role=Role.CLIENT,
                enrolled_at_ms=BEGIN_MS,
                removed=True,
                liveness_at_ms=BEGIN_MS,
                grant="reader",
                namespace="team-a/*",
                ended_commands=("/health/read",),
            ),
        ),
        delegations=(_delegation(1, CLUSTER, OPERATOR),),
        authority=_authority(1),
        certificates=(_certificate(1, MASTER),),
    )


def _members() -> Iterator[dict[str, Any]]:
    for number, (member, role) in enumerate(ROLES.items()):
        is_client = role is Role.CLIENT
        token = f"token{number}"
        yield _of(
            c.CreateJoinToken(
                token_id=token,
                secret_hash=token.encode().ljust(32),
                role=role,
                expires_at_ms=BEGIN_MS + 24 * HOUR_MS,
                uses_max=2,
                addresses=() if is_client else (f"10.0.1.{number}:7946",),
                grant="user" if is_client else "",
            ),
            OPERATOR,
        )
        yield _of(
            c.RedeemJoinToken(
                token_id=token,
                secret_hash=token.encode().ljust(32),
                did=member,
                name=f"{role}-{number}",
                endpoints=() if is_client else (f"10.0.1.{number}:7946",),
                seal_key=b"k" * 32 if role is Role.MASTER else b"",
            ),
            member,
        )
        if not is_client:
            yield _of(
                c.RegisterNode(
                    node_id=node_id_from_did(member),
                    endpoints=(f"10.0.1.{number}:7946",),
                    task_types=("data_processing", "echo") if role is Role.WORKER else (),
                    slot_count=4 if role is Role.WORKER else 0,
                    version="0.1.0",
                    seal_key=b"k" * 32 if role is Role.MASTER else b"",
                    enrolment_endpoints=("10.0.1.0:7947",) if role is Role.MASTER else (),
                )
            )
    # Wrong secrets, joiners that wait, that were admitted and refused, a token that was revoked.
    approving = c.CreateJoinToken(
        token_id="approved",
        secret_hash=b"a" * 32,
        role=Role.CLIENT,
        expires_at_ms=BEGIN_MS + 24 * HOUR_MS,
        uses_max=50,
        addresses=(),
        grant="viewer",
        namespace="team-a/*",
        needs_approval=True,
    )
    yield _of(approving, OPERATOR)
    yield _of(replace(approving, token_id="revoked"), OPERATOR)
    yield _of(c.RevokeJoinToken(token_id="revoked"), OPERATOR)
    redeem = c.RedeemJoinToken(
        token_id="approved",
        secret_hash=b"b" * 32,
        did=WAITING,
        name="waiting",
        endpoints=("10.0.2.1:7946",),
    )
    yield _of(redeem, WAITING)
    for joiner in (WAITING, REFUSED):
        yield _of(replace(redeem, secret_hash=b"a" * 32, did=joiner), joiner)
    yield _of(c.DecideJoiner(token_id="approved", did=REFUSED, approved=False), OPERATOR)
    yield _of(c.ReplaceLog(node_id=node_id_from_did(SECOND), incarnation=2))
    yield _of(c.SetLiveness(dead=(node_id_from_did(DEAD),)))
    yield _of(c.SetLiveness(alive=(node_id_from_did(MASTER),)))


def _settings() -> Iterator[dict[str, Any]]:
    values = {key: setting.maximum for key, setting in sorted(SETTINGS.items())}
    yield _of(c.ProposeConfig(values=values), OPERATOR)
    yield _of(c.ProposeConfig(values={"user.a": "1", "user.b": "ä"}), OPERATOR)
    yield _of(c.ProposeConfig(values={"user.b": ""}, if_values={"user.a": "1"}), OPERATOR)
    yield _of(c.ProposeConfig(values={"user.a": "2"}, if_values={"user.a": "0"}), OPERATOR)
    yield _of(c.ProposeConfig(values={"no.such": "2"}), OPERATOR)
    kept = c.ProposeConfig(values={"user.c": "1", "user.d": "ä"}, with_version=True)
    yield _of(kept, OPERATOR)
    yield _of(replace(kept, values={"user.c": "2", "user.d": ""}), OPERATOR)
    yield _of(replace(kept, values={"node_lease": ""}), OPERATOR)
    yield _of(c.ProposeConfig(values={"node_lease": "5m"}), OPERATOR)


FILE: Final = str(cid_of(RAW, b"file"))
RESULT: Final = str(cid_of(RAW, b"result"))
REMOVED_FILE: Final = str(cid_of(RAW, b"removed"))
KEPT: Final = str(cid_of(RAW, b"kept"))
UNKEPT: Final = str(cid_of(RAW, b"unkept"))
SHARED: Final = str(cid_of(RAW, b"shared"))


def _contents() -> Iterator[dict[str, Any]]:
    holders = (node_id_from_did(MASTER), node_id_from_did(SECOND))
    yield _of(c.AddContent(cid=FILE, size_bytes=4, holders=holders[:1], name="file.csv"), ALICE)
    yield _of(c.AddContent(cid=FILE, size_bytes=4, holders=holders[1:], name=""), BOB)
    yield _of(c.AddContent(cid=RESULT, size_bytes=6, holders=holders, name=""))
    yield _of(c.AddContent(cid=REMOVED_FILE, size_bytes=7, holders=holders, name="a"))
    yield _of(c.RemoveContent(cid=REMOVED_FILE), ALICE)
    yield _of(c.RemoveContent(cid=REMOVED_FILE), BOB)


def _in_namespaces(task_id: TaskId) -> Iterator[dict[str, Any]]:
    """A file in four namespaces, added in two and made in two, of which two are left."""
    added = c.AddContent(cid=SHARED, size_bytes=4, holders=(), name="", namespace="team-a")
    for namespace in ("team-a", "team-b"):
        yield _of(replace(added, namespace=namespace), ALICE)
    for namespace in ("team-c", "team-d"):
        yield _of(replace(added, namespace=namespace, goes_with=task_id))
    yield _of(c.KeepContent(cid=SHARED, namespace="team-d"), ALICE)
    yield _of(c.KeepContent(cid=SHARED, among=("team-c", "team-e")), ALICE)
    yield _of(c.RemoveContent(cid=SHARED, namespace="team-b"), ALICE)
    yield _of(c.RemoveContent(cid=SHARED, among=("team-a", "team-e")), ALICE)


def _tasks() -> Iterator[dict[str, Any]]:
    spec = TaskSpec(
        task_type="echo",
        payload=b"payload",
        content_type="text/plain",
        inputs=(TaskInput("in", FILE, "csv"),),
        attempt_timeout_ms=1234,
        attempt_count_max=2,
        priority=3,
        namespace="team-a/nightly",
        task_timeout_ms=HOUR_MS,
        keep_result=True,
    )
    ids = tuple(TaskId(f"task{number:02}") for number in range(12))
    submit = c.SubmitTasks(
        task_ids=ids, specs=(spec,) * len(ids), fingerprint=b"f" * 32, with_history=True
    )
    yield _of(submit, ALICE, again="tasks")
    yield _of(replace(submit, task_ids=tuple(reversed(ids))), ALICE, again="tasks")
    other = replace(submit, task_ids=(TaskId("other"),), specs=(spec,), fingerprint=b"g" * 32)
    yield _of(other, ALICE, again="tasks")
    unknown = replace(other, specs=(replace(spec, task_type="unknown"),))
    yield _of(unknown, ALICE)

    worker, second = node_id_from_did(WORKER), node_id_from_did(REMOVED)
    for cid in (KEPT, UNKEPT):
        yield _of(c.AddContent(cid=cid, size_bytes=4, holders=(second,), name="", goes_with=ids[2]))
    yield _of(c.KeepContent(cid=KEPT), ALICE)
    yield _of(c.RemoveContent(cid=UNKEPT), ALICE)
    yield _of(c.RemoveContent(cid=FILE), ALICE)
    yield from _in_namespaces(ids[2])
    yield _of(c.AssignTasks(assignments=tuple((each, worker) for each in ids[:9])))
    yield _of(c.AssignTasks(assignments=((ids[9], second), (ids[0], second))))

    def outcome(number: int, attempt: int = 1, **how: Any) -> AttemptOutcome:
        return AttemptOutcome(id=AttemptId(ids[number], attempt), **how)

    failure = TaskFailure(Reason.HANDLER_FAILED, "it broke", "Traceback: ä")
    back = TaskFailure(Reason.WORKER_LOST, "its worker gave it back")
    yield _of(
        c.FinishAttempts(
            node_id=worker,
            outcomes=(
                outcome(0, result=TaskResult(data=b"data", content_type="text/csv")),
                outcome(1, result=TaskResult(cid=RESULT, size_bytes=6)),
                outcome(2, failure=failure),
                outcome(3, failure=failure, retryable=True),
                outcome(4, failure=back, retryable=True, handed_back=True),
                outcome(5, failure=back, retryable=True),
                outcome(6, 9, result=TaskResult(data=b"of another attempt")),
            ),
        )
    )
    yield _of(c.RequeueAttempts(ids=(AttemptId(ids[6], 1), AttemptId(ids[0], 1))))
    yield _of(c.CancelTask(task_id=ids[7]), ALICE)
    yield _of(c.CancelTask(task_id=ids[10]), ALICE)
    yield _of(c.CancelTask(task_id=TaskId("none")), ALICE)
    late = TaskId("late")
    timed = replace(spec, task_timeout_ms=1000)
    yield _of(replace(submit, task_ids=(late,), specs=(timed,), fingerprint=b"h" * 32), ALICE)
    yield _of(c.TimeOutTasks(task_ids=(late, ids[8], ids[0])), at_ms=BEGIN_MS + HOUR_MS // 2)


def _delegations() -> Iterator[dict[str, Any]]:
    for number, audience in enumerate((ALICE, BOB, BOB), start=2):
        yield _of(c.PutDelegation(delegations=(_delegation(number, OPERATOR, audience),)), OPERATOR)
    yield _of(
        c.RevokeDelegation(revocation=_revocation(3, OPERATOR), copies=(_revocation(4, OPERATOR),)),
        OPERATOR,
    )
    yield _of(c.RevokeDelegation(revocation=_revocation(2, BOB)), BOB)


def _certificates() -> Iterator[dict[str, Any]]:
    for number, owner in enumerate((WORKER, ALICE, ALICE, BOB), start=2):
        yield _of(c.IssueCertificate(record=_certificate(number, owner)), owner)
    yield _of(c.IssueCertificate(record=_certificate(2, WORKER)), WORKER)
    revoked = CertificateRevocation(serial=_certificate(3, ALICE).serial, until_s=BEGIN_MS // 1000)
    yield _of(c.RevokeCertificate(revocation=revoked), OPERATOR)
    yield _of(c.RevokeCertificate(revocation=CertificateRevocation(did=BOB)), OPERATOR)
    for version, phase in enumerate(RotationPhase, start=2):
        authority = replace(_authority(version), phase=phase, phase_at_ms=BEGIN_MS + version)
        yield _of(c.SetAuthority(authority=authority, asked="rotate"), OPERATOR)
    yield _of(c.SetAuthority(authority=_authority(99)))


def _endings() -> Iterator[dict[str, Any]]:
    yield _of(c.RemoveNode(node_id=node_id_from_did(REMOVED)), OPERATOR)
    yield _of(c.ExpireRecords(), at_ms=BEGIN_MS + HOUR_MS)
    yield _of(c.ExpireRecords(count_max=2, goes_on=True), at_ms=BEGIN_MS + HOUR_MS)
    yield _of(c.ExpireRecords(count_max=1), at_ms=BEGIN_MS + 2 * HOUR_MS)


def _delegation(number: int, issuer: Did, audience: Did) -> StoredDelegation:
    token = f"delegation {number}".encode()
    return StoredDelegation(
        cid=cid_of(DAG_CBOR, token),
        token=token,
        issuer=issuer,
        audience=audience,
        expires_s=BEGIN_MS // 1000 + 30 * DAY_S,
        put_at_ms=BEGIN_MS + number,
        put_by="" if issuer == CLUSTER else issuer,
        command="/" if issuer == CLUSTER else "",
    )


def _revocation(number: int, revoker: Did) -> StoredRevocation:
    cid = cid_of(DAG_CBOR, f"delegation {number}".encode())
    return StoredRevocation(cid, revoker, BEGIN_MS // 1000 + 30 * DAY_S)


def _certificate(number: int, owner: Did) -> CertificateRecord:
    return CertificateRecord(
        serial=(1 << 150) + number,
        did=owner,
        spki_hash=bytes([number]) * 32,
        not_after_s=BEGIN_MS // 1000 + 30 * DAY_S,
        issued_at_ms=BEGIN_MS + number,
        epoch=1,
    )


def _authority(version: int) -> Authority:
    return Authority(
        version=version,
        key_id=f"key{version}",
        ciphertext=b"sealed",
        wraps=((MASTER, b"wrap 1"), (SECOND, b"wrap 2")),
        recovery_key=b"r" * 32,
        recovery_wrap=b"wrap",
        roots=("root 1\n", "root 2\n"),
        signer=1,
        epoch=version,
        phase_at_ms=BEGIN_MS,
    )
