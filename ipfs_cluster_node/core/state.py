"""The replicated state and its one writer, `ClusterState.apply`."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from ipfs_cluster_node.core.certificates import (
    Authority,
    CertificateRecord,
    CertificateRevocation,
    CertificateTable,
)
from ipfs_cluster_node.core.commands import (
    AddContent,
    AssignTasks,
    BootstrapCluster,
    CancelTask,
    Command,
    CommandBody,
    CreateJoinToken,
    DecideJoiner,
    ExpireRecords,
    FinishAttempts,
    IssueCertificate,
    ProposeConfig,
    PutDelegation,
    RedeemJoinToken,
    RegisterNode,
    RemoveNode,
    ReplaceLog,
    RequeueAttempts,
    RevokeCertificate,
    RevokeDelegation,
    RevokeJoinToken,
    SetAuthority,
    SetLiveness,
    SubmitTasks,
    fingerprint_of,
)
from ipfs_cluster_node.core.delegations import (
    DelegationTable,
    StoredDelegation,
    StoredRevocation,
)
from ipfs_cluster_node.core.effects import (
    Accepted,
    Applied,
    AttemptsAssigned,
    AttemptsRevoked,
    CertificatesRevoked,
    Effect,
    MembersChanged,
    Rejected,
    TasksChanged,
    TasksPending,
)
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId, did_from_node_id
from ipfs_cluster_node.core.members import MemberTable
from ipfs_cluster_node.core.model import (
    AttemptId,
    Content,
    JoinToken,
    Liveness,
    Principal,
    Task,
)
from ipfs_cluster_node.core.settings import ConfigChangedError, Settings
from ipfs_cluster_node.core.sorted_keys import SortedKeys
from ipfs_cluster_node.core.tasks import TaskTable

EXPIRED_MAX: Final = 10_000
"""Tasks, or answers, that one command forgets where it does not say how many."""
REQUESTS_DROPPED_MAX: Final = 1000
"""Answers that one command pushes out: there may be many once their setting was lowered."""
MORE: Final = "more"
"""The answer to a command that forgot as many as it may."""
JUDGED_STEP_MS_MAX: Final = 600_000
"""How far the time that records are judged by moves with one expiry, ten times their interval. A
leader's clock that is far ahead would else have revocations forgotten for good. After an outage the
time is caught up with."""
TOKEN_KEEP_MS: Final = 24 * 3_600_000
"""How long an ended join token is remembered, to tell a late joiner why it is refused."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """The answer to one request, kept for its repeats."""

    caller: str
    request_id: str
    at_ms: int
    fingerprint: bytes
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateData:
    """The whole state as values: what a snapshot holds. Sharing it is safe, all is frozen."""

    cluster_id: str = ""
    cluster_name: str = ""
    cluster_did: Did = Did("")
    incarnation_last: int = 0
    principals: tuple[Principal, ...] = ()
    tokens: tuple[JoinToken, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()
    requests: tuple[RequestRecord, ...] = ()
    contents: tuple[Content, ...] = ()
    delegations: tuple[StoredDelegation, ...] = ()
    revocations: tuple[StoredRevocation, ...] = ()
    certificates: tuple[CertificateRecord, ...] = ()
    certificate_revocations: tuple[CertificateRevocation, ...] = ()
    authority: Authority = field(default_factory=Authority)
    judged_at_ms: int = 0


class ClusterState:
    """Members, tasks, content holders and settings, as the log has made them.

    `apply` is the only way to change it. It is deterministic and does not raise for any command
    that the codec can make: a refusal is an answer.
    """

    def __init__(self, data: StateData | None = None) -> None:
        """Start from `data`, else empty."""
        data = data or StateData()
        self.cluster_id = data.cluster_id
        self.cluster_name = data.cluster_name
        self.cluster_did = data.cluster_did
        self.members = MemberTable(
            data.principals, data.tokens, incarnation_last=data.incarnation_last
        )
        self.settings = Settings(data.settings)
        self.tasks = TaskTable(data.tasks)
        self.delegations = DelegationTable(data.delegations, data.revocations)
        self.certificates = CertificateTable(
            data.certificates, data.certificate_revocations, data.authority
        )
        self.contents: dict[str, Content] = {c.cid: c for c in data.contents}
        self.content_cids = SortedKeys(self.contents)
        self.judged_at_ms = data.judged_at_ms
        """As of when records were last found to have ended; 0 if they never were."""
        self._requests = OrderedDict(((r.caller, r.request_id), r) for r in data.requests)
        """The oldest first: more than `request_count_max` push it out."""

    def apply(self, command: Command) -> Applied:
        """Carry out one committed command."""
        if not command.request_id:
            return self._carry_out(command)
        fingerprint = fingerprint_of(command.body)
        answer = self._answer(command.caller, command.request_id, fingerprint)
        if answer is not None:
            return Applied(answer)
        applied = self._carry_out(command)
        if isinstance(applied.outcome, Accepted):
            self._requests[command.caller, command.request_id] = RequestRecord(
                command.caller, command.request_id, command.at_ms, fingerprint, applied.outcome.ids
            )
            over = len(self._requests) - self.settings["request_count_max"]
            for _ in range(min(over, REQUESTS_DROPPED_MAX)):
                self._requests.popitem(last=False)
        return applied

    def _carry_out(self, command: Command) -> Applied:  # noqa: C901, PLR0912
        body = command.body
        match body:  # The most frequent first.
            case FinishAttempts():
                return self._finish_attempts(command, body)
            case AssignTasks():
                return self._assign_tasks(command, body)
            case SubmitTasks():
                return self._submit_tasks(command, body)
            case ProposeConfig():
                return self._propose_config(command, body)
            case BootstrapCluster():
                return self._bootstrap_cluster(command, body)
            case CreateJoinToken():
                return self._create_join_token(command, body)
            case RevokeJoinToken():
                return self._revoke_join_token(command, body)
            case RedeemJoinToken():
                return self._redeem_join_token(command, body)
            case DecideJoiner():
                return self._decide_joiner(command, body)
            case RegisterNode():
                return self._register_node(command, body)
            case SetLiveness():
                return self._set_liveness(command, body)
            case RemoveNode():
                return self._remove_node(command, body)
            case ReplaceLog():
                return self._replace_log(command, body)
            case RequeueAttempts():
                return self._requeue_attempts(command, body)
            case CancelTask():
                return self._cancel_task(command, body)
            case ExpireRecords():
                return self._expire_records(command, body)
            case AddContent():
                return self._add_content(command, body)
            case PutDelegation():
                return self._put_delegation(command, body)
            case RevokeDelegation():
                return self._revoke_delegation(command, body)
            case IssueCertificate():
                return self._issue_certificate(command, body)
            case RevokeCertificate():
                return self._revoke_certificate(command, body)
            case SetAuthority():
                return self._set_authority(command, body)
            case _:
                assert_never(body)

    def answer_to(
        self, caller: str, request_id: str, body: CommandBody
    ) -> Accepted | Rejected | None:
        """The answer to a repeat, or that it is none; None for a request that is new."""
        return self._answer(caller, request_id, fingerprint_of(body))

    def _answer(
        self, caller: str, request_id: str, fingerprint: bytes
    ) -> Accepted | Rejected | None:
        known = self._requests.get((caller, request_id))
        if known is None:
            return None
        if known.fingerprint == fingerprint:
            return Accepted(known.ids)
        return Rejected(
            Reason.REQUEST_ID_REUSED,
            "this request id came before with other content; choose a new one",
        )

    def data(self) -> StateData:
        """Everything, as of now; cheap, since values are shared."""
        return StateData(
            cluster_id=self.cluster_id,
            cluster_name=self.cluster_name,
            cluster_did=self.cluster_did,
            incarnation_last=self.members.incarnation_last,
            principals=self.members.principals(),
            tokens=self.members.tokens(),
            settings=dict(self.settings.changed),
            tasks=self.tasks.copy(),
            requests=tuple(self._requests.values()),
            contents=tuple(self.contents.values()),
            delegations=self.delegations.delegations(),
            revocations=self.delegations.revocation_records(),
            certificates=self.certificates.records(),
            certificate_revocations=self.certificates.revocations(),
            authority=self.certificates.authority,
            judged_at_ms=self.judged_at_ms,
        )

    # Members.

    def _bootstrap_cluster(self, _command: Command, body: BootstrapCluster) -> Applied:
        if self.cluster_id:
            return Applied(Rejected(Reason.INVALID_ARGUMENT, "the cluster exists already"))
        self.cluster_id, self.cluster_name = body.cluster_id, body.cluster_name
        self.cluster_did = body.cluster_did
        self.delegations.put(body.delegations)
        self.certificates = CertificateTable(body.certificates, (), body.authority)
        for principal in body.principals:
            self.members.put(principal)
        return Applied(Accepted(), (MembersChanged(),))

    def _create_join_token(self, command: Command, body: CreateJoinToken) -> Applied:
        creator = Did(command.caller)
        if creator in self.members.removed or self.certificates.revokes(creator):
            # It was let through just before: a token that it leaves behind would outlive it.
            return Applied(Rejected(Reason.CALLER_UNKNOWN, "its maker was removed or revoked"))
        return Applied(self.members.create_token(body, command.caller))

    def _revoke_join_token(self, _command: Command, body: RevokeJoinToken) -> Applied:
        return Applied(self.members.revoke_token(body.token_id))

    def _redeem_join_token(self, command: Command, body: RedeemJoinToken) -> Applied:
        return Applied(self.members.redeem(body, command.at_ms), (MembersChanged(),))

    def _decide_joiner(self, command: Command, body: DecideJoiner) -> Applied:
        return Applied(self.members.decide(body, command.at_ms))

    def _register_node(self, command: Command, body: RegisterNode) -> Applied:
        if not self.members.register(body, command.at_ms):
            return Applied(_no_member(body.node_id))
        return Applied(Accepted(), (MembersChanged(),))

    def _set_liveness(self, command: Command, body: SetLiveness) -> Applied:
        effects: list[Effect] = []
        for node_id in body.alive:
            self.members.set_liveness(node_id, Liveness.ALIVE, command.at_ms)
        for node_id in body.dead:
            if self.members.set_liveness(node_id, Liveness.DEAD, command.at_ms):
                lost = self.tasks.running_on(node_id)
                effects += self._lose(lost, command.at_ms)
                if lost:
                    # It may still be in a session, and its lease may be back before it noticed.
                    effects.append(AttemptsRevoked(node_id, lost))
        return Applied(Accepted(), (*effects, MembersChanged()))

    def _remove_node(self, command: Command, body: RemoveNode) -> Applied:
        if not self.members.remove(body.node_id):
            return Applied(_no_member(body.node_id))
        # Else a repeat of its enrolment would be answered as if it were let in again.
        did = did_from_node_id(body.node_id)
        for key in [key for key in self._requests if key[0] == did]:
            del self._requests[key]
        self.delegations.forget_member(did)
        self.members.revoke_tokens_of(did)
        self.certificates.forget_member(did)
        effects = self._lose(self.tasks.running_on(body.node_id), command.at_ms)
        return Applied(Accepted(), (*effects, MembersChanged(), CertificatesRevoked()))

    def _replace_log(self, _command: Command, body: ReplaceLog) -> Applied:
        return Applied(self.members.replace_log(body), (MembersChanged(),))

    def _propose_config(self, _command: Command, body: ProposeConfig) -> Applied:
        try:
            self.settings.change(body.values, body.if_values)
        except ConfigChangedError as error:
            return Applied(Rejected(Reason.CONFIG_CHANGED, str(error)))
        except ValueError as error:
            return Applied(Rejected(Reason.INVALID_ARGUMENT, str(error)))
        return Applied(Accepted())

    # Tasks.

    def _submit_tasks(self, command: Command, body: SubmitTasks) -> Applied:
        refused = self._no_room_for(body)
        if refused is not None:
            return Applied(refused)
        known_types = self.members.task_types()
        for spec in body.specs:
            if spec.task_type not in known_types:
                return Applied(
                    Rejected(
                        Reason.TASK_TYPE_UNKNOWN,
                        f"no node has a handler for {spec.task_type!r}; there are handlers for "
                        f"{', '.join(sorted(known_types)) or 'nothing, as no worker has come up'}",
                    )
                )
        self._make_room(len(body.specs), sum(len(spec.payload) for spec in body.specs))
        for task_id, spec in zip(body.task_ids, body.specs, strict=True):
            self.tasks.submit(task_id, spec, Did(command.caller), command.at_ms)
        return Applied(Accepted(body.task_ids), (TasksPending(),))

    def _no_room_for(self, body: SubmitTasks) -> Rejected | None:
        """Why tasks are not taken even if all ended ones that may be forgotten were forgotten."""
        tasks, more = self.tasks, len(body.specs)
        count_max, bytes_max = self.settings["task_count_max"], self.settings["task_bytes_max"]
        kept = min(tasks.ended_count, self._ended_keep)
        if tasks.unfinished_count + kept + more > count_max:
            return Rejected(
                Reason.TOO_MANY_TASKS,
                f"{tasks.unfinished_count} tasks wait or run and {kept} that ended are kept in any "
                f"case: {more} more are too many for task_count_max ({count_max}); wait until some "
                "end, or raise it",
            )
        unfinished_bytes = tasks.stored_bytes - tasks.ended_bytes
        kept_bytes = min(tasks.ended_bytes, bytes_max // 2)
        payload_bytes = sum(len(spec.payload) for spec in body.specs)
        if unfinished_bytes + kept_bytes + payload_bytes > bytes_max:
            return Rejected(
                Reason.TOO_MANY_TASKS,
                f"tasks that wait or run hold {unfinished_bytes} bytes, and those that ended keep "
                f"{kept_bytes} in any case: {payload_bytes} more are too many for task_bytes_max "
                f"({bytes_max}); wait until some end, name large inputs by CID, or raise it",
            )
        return None

    @property
    def _ended_keep(self) -> int:
        return min(self.settings["task_ended_keep_min"], self.settings["task_count_max"] // 2)

    def _make_room(self, count: int, payload_bytes: int) -> None:
        """Forget ended tasks, the oldest first, until so many more have room."""
        bytes_max = self.settings["task_bytes_max"]
        self.tasks.make_room(
            count=self.settings["task_count_max"] - count,
            count_keep=self._ended_keep,
            stored_bytes=bytes_max - payload_bytes,
            bytes_keep=bytes_max // 2,
            forget_max=EXPIRED_MAX,
        )

    def _assign_tasks(self, command: Command, body: AssignTasks) -> Applied:
        assigned: dict[NodeId, list[AttemptId]] = {}
        for task_id, node_id in body.assignments:
            node = self.members.node(node_id)
            if node is None or node.liveness is not Liveness.ALIVE:
                continue
            attempt = self.tasks.assign(task_id, node_id, command.at_ms)
            if attempt is not None:
                assigned.setdefault(node_id, []).append(attempt)
        effects: list[Effect] = [AttemptsAssigned(n, tuple(ids)) for n, ids in assigned.items()]
        effects.append(TasksChanged(tuple(a.task_id for ids in assigned.values() for a in ids)))
        return Applied(Accepted(), tuple(effects))

    def _finish_attempts(self, command: Command, body: FinishAttempts) -> Applied:
        changed: list[TaskId] = []
        for outcome in body.outcomes:
            if not self.tasks.finish(outcome, body.node_id, command.at_ms):
                continue
            changed.append(outcome.id.task_id)
            if outcome.result is not None and outcome.result.cid in self.contents:
                self._hold(outcome.result.cid, (body.node_id,))
        if not changed:
            return Applied(Accepted())
        self._make_room(0, 0)  # Results weigh too.
        return Applied(Accepted(tuple(changed)), (TasksChanged(tuple(changed)), TasksPending()))

    def _requeue_attempts(self, command: Command, body: RequeueAttempts) -> Applied:
        return Applied(Accepted(), tuple(self._lose(body.ids, command.at_ms)))

    def _cancel_task(self, command: Command, body: CancelTask) -> Applied:
        task = self.tasks.get(body.task_id)
        if task is None:
            return Applied(
                Rejected(Reason.TASK_NOT_FOUND, f"there is no task {body.task_id}; list the tasks")
            )
        if task.state.is_terminal:
            return Applied(
                Rejected(Reason.TASK_FINISHED, f"the task has {task.state} already; get its result")
            )
        effects: list[Effect] = [TasksChanged((body.task_id,))]
        if task.node_id is not None and self.tasks.running_count(task.node_id):
            effects.append(AttemptsRevoked(task.node_id, (AttemptId(task.task_id, task.attempt),)))
        self.tasks.cancel(body.task_id, command.at_ms)
        return Applied(Accepted((body.task_id,)), tuple(effects))

    def _lose(self, attempts: Iterable[AttemptId], at_ms: int) -> list[Effect]:
        lost = tuple(a.task_id for a in attempts if self.tasks.lose(a, at_ms))
        return [TasksChanged(lost), TasksPending()] if lost else []

    # Content, and what is forgotten.

    def _add_content(self, command: Command, body: AddContent) -> Applied:
        if body.cid not in self.contents:
            self.contents[body.cid] = Content(
                cid=body.cid,
                size_bytes=body.size_bytes,
                holders=(),
                name=body.name,
                added_at_ms=command.at_ms,
            )
            self.content_cids.add(body.cid)
        self._hold(body.cid, body.holders)
        return Applied(Accepted((body.cid,)))

    def holders_of(self, content: Content) -> tuple[NodeId, ...]:
        """Who has a file: nodes that were removed are left out here.

        One may have had all files: to go through them with its removal would hold up all else.
        """
        removed = self.members.was_removed
        if not any(map(removed, content.holders)):
            return content.holders
        return tuple(node_id for node_id in content.holders if not removed(node_id))

    def _hold(self, cid: str, node_ids: Iterable[NodeId]) -> None:
        content = self.contents[cid]
        new = tuple(node_id for node_id in node_ids if node_id not in content.holders)
        if new:
            holders = (*self.holders_of(content), *new)
            self.contents[cid] = replace(content, holders=holders)

    def _expire_records(self, command: Command, body: ExpireRecords) -> Applied:
        at_ms = command.at_ms
        if body.goes_on and self.judged_at_ms:
            at_ms = self.judged_at_ms
        elif self.judged_at_ms:
            # Not by the latest command: a leader with a wrong clock makes thousands a minute.
            earliest_ms = self.judged_at_ms - JUDGED_STEP_MS_MAX
            at_ms = max(earliest_ms, min(at_ms, self.judged_at_ms + JUDGED_STEP_MS_MAX))
        self.judged_at_ms = at_ms
        count_max = body.count_max or EXPIRED_MAX
        tasks = self.tasks.expire(at_ms - self.settings["task_retention"], count_max)
        oldest_ms = at_ms - self.settings["request_retention"]
        requests = 0
        # Ordered by when they were committed, close enough to `at_ms`.
        while (
            requests < count_max
            and self._requests
            and next(iter(self._requests.values())).at_ms < oldest_ms
        ):
            self._requests.popitem(last=False)
            requests += 1
        self.members.expire_tokens(at_ms, TOKEN_KEEP_MS)
        others_max = body.count_max or None
        left = (
            tasks == count_max,
            requests == count_max,
            self.delegations.forget(at_ms // 1000, others_max),
            self.certificates.forget(at_ms // 1000, others_max),
        )
        return Applied(Accepted((MORE,) if any(left) else ()))

    # Authorization.

    def _put_delegation(self, _command: Command, body: PutDelegation) -> Applied:
        delegations = [d for d in body.delegations if not self._is_ended_grant(d)]
        full = self.delegations.full_for(delegations)
        if full:
            return Applied(Rejected(Reason.TOO_MANY_DELEGATIONS, full))
        self.delegations.put(delegations)
        return Applied(Accepted(tuple(str(d.cid) for d in body.delegations)))

    def _is_ended_grant(self, delegation: StoredDelegation) -> bool:
        """Whether the cluster would give again what was taken back while it was renewed."""
        if delegation.issuer != self.cluster_did or delegation.put_by:
            return False
        client = self.members.get(delegation.audience)
        return client is None or client.removed or not client.grant

    def _revoke_delegation(self, _command: Command, body: RevokeDelegation) -> Applied:
        full = self.delegations.revocations_full(body.revocation, self.cluster_did)
        if full:
            return Applied(Rejected(Reason.TOO_MANY_DELEGATIONS, full))
        self._end_grant(body.revocation)
        for revocation in (body.revocation, *body.copies):
            self.delegations.revoke(revocation)
        return Applied(Accepted())

    def _end_grant(self, revocation: StoredRevocation) -> None:
        """What the cluster took back from a client is not given again when it renews."""
        stored = self.delegations.get(revocation.cid)
        if stored is None or not stored.issuer == revocation.revoker == self.cluster_did:
            return
        client = self.members.get(stored.audience)
        if client is not None and client.grant:
            self.members.put(replace(client, grant=""))

    # Certificates.

    def _issue_certificate(self, command: Command, body: IssueCertificate) -> Applied:
        owner = self.members.get(body.record.did)
        if owner is None or owner.removed:
            return Applied(
                Rejected(
                    Reason.CALLER_UNKNOWN,
                    f"{body.record.did} is no member of this cluster; join with a new identity",
                )
            )
        refused = self.certificates.refuses(body.record, command.at_ms)
        if refused is not None:
            return Applied(refused)
        if body.record.epoch != self.certificates.authority.epoch:
            return Applied(
                Rejected(
                    Reason.AUTHORITY_SEALED, "the cluster's roots changed meanwhile; try again"
                )
            )
        self.certificates.issue(body.record)
        return Applied(Accepted())

    def _revoke_certificate(self, _command: Command, body: RevokeCertificate) -> Applied:
        revocation = body.revocation
        record = self.certificates.get(revocation.serial)
        owner = revocation.did or (Did("") if record is None else record.did)
        if owner in self.members.removed:
            return Applied(Accepted())  # Nothing of it counts: it takes no room.
        if self.certificates.full():
            return Applied(
                Rejected(
                    Reason.OVERLOADED,
                    "no more revocations can be remembered; remove members for good instead",
                )
            )
        if record is None and self.members.get(revocation.did) is None:
            return Applied(
                Rejected(
                    Reason.CERTIFICATE_NOT_FOUND,
                    "no such certificate or member is known; see `cert list`",
                )
            )
        if revocation.did:
            self.members.revoke_tokens_of(revocation.did)
        self.certificates.revoke(revocation)
        return Applied(Accepted(), (CertificatesRevoked(),))

    def _set_authority(self, _command: Command, body: SetAuthority) -> Applied:
        if not self.certificates.set_authority(body.authority):
            return Applied(
                Rejected(Reason.AUTHORITY_SEALED, "the cluster's keys changed meanwhile; try again")
            )
        return Applied(Accepted())


def _no_member(node_id: NodeId) -> Rejected:
    return Rejected(
        Reason.MEMBER_NOT_FOUND, f"{node_id} is not a member; list the nodes, or join it"
    )
