"""The replicated state and its one writer, `ClusterState.apply`."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, assert_never

from ipfs_cluster_node.core import commands
from ipfs_cluster_node.core.certificates import CertificateTable
from ipfs_cluster_node.core.commands import CommandBody, LogCommand, fingerprint_of
from ipfs_cluster_node.core.config_history import ConfigHistory
from ipfs_cluster_node.core.contents import ContentTable
from ipfs_cluster_node.core.delegations import (
    DelegationTable,
    StoredDelegation,
    StoredRevocation,
)
from ipfs_cluster_node.core.effects import (
    Accepted,
    Answer,
    Applied,
    AttemptsAssigned,
    AttemptsRevoked,
    CertificatesRevoked,
    Effect,
    Rejected,
)
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.file_needs import FileNeeds
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId, did_from_node_id
from ipfs_cluster_node.core.kept_files import KeptFiles, with_its_file
from ipfs_cluster_node.core.members import MemberTable
from ipfs_cluster_node.core.model import AttemptId, Content, Liveness, Role, Task, TaskState
from ipfs_cluster_node.core.requests import RequestRecord, RequestTable
from ipfs_cluster_node.core.settings import ClusterConfig, ConfigChangedError
from ipfs_cluster_node.core.state_data import StateData
from ipfs_cluster_node.core.tables import Notes, TableName, Touched
from ipfs_cluster_node.core.task_deadlines import timed_out
from ipfs_cluster_node.core.task_room import make_room, no_room_for
from ipfs_cluster_node.core.tasks import TaskTable

EXPIRED_MAX: Final = 10_000
"""Tasks, or answers, that one command deletes if it does not say how many."""
MORE: Final = "more"
"""The answer to a command that deleted as many as it may."""
EXPIRY_STEP_MS_MAX: Final = 600_000
"""Most that the expiry clock advances per `ExpireRecords`, ten times their interval. Bounds the
harm of a leader whose clock is far ahead: it can't expire revocations early. After an outage the
clock catches up in steps."""
TOKEN_KEEP_MS: Final = 24 * 3_600_000
"""How long an expired join token is remembered, to tell a late joiner why it is refused."""


class ClusterState:
    """Members, tasks, content holders and settings, as replicated.

    `apply` is the only way to change it. It is deterministic and does not raise for any command
    that the codec can produce: a refusal is an answer.
    """

    def __init__(self, data: StateData | None = None) -> None:
        data = data or StateData()
        self._notes = notes = Notes()
        self._cluster_touched = notes.of(TableName.CLUSTER)
        self._effects: list[Effect] = []
        self.cluster_id = data.cluster_id
        self.cluster_name = data.cluster_name
        self.cluster_did = data.cluster_did
        self.members = MemberTable(
            data.principals, data.tokens, incarnation_last=data.incarnation_last, notes=notes
        )
        self.settings = ClusterConfig(data.settings, notes)
        self.config_history = ConfigHistory(data.config_versions, notes)
        needs = FileNeeds()
        self.tasks = TaskTable(data.tasks, notes, needs)
        self.delegations = DelegationTable(data.delegations, data.revocations, notes)
        self.certificates = CertificateTable(
            data.certificates, data.certificate_revocations, data.authority, notes
        )
        self.contents = ContentTable(data.contents, self.members.was_removed, notes)
        self._kept_files = KeptFiles(self.contents, self.tasks, needs)
        self._released = needs.released
        self.judged_at_ms = data.judged_at_ms
        """The expiry clock: the time as of which records last expired; 0 if never."""
        self.requests = RequestTable(data.requests, notes)
        notes.take()

    def apply(self, command: LogCommand) -> Applied:
        """Carry out one committed command, and say what it touched."""
        outcome, effects = self.carry_out(command)
        return Applied(outcome, effects, self.take_touched())

    def take_touched(self) -> Touched:
        """What the commands carried out since this was last asked have touched."""
        return self._notes.take()

    def carry_out(self, command: LogCommand) -> tuple[Answer, tuple[Effect, ...]]:
        """Carry out one committed command; returns its outcome, and what the shell must do."""
        outcome = self._answer(command) if command.request_id else self._carry_out(command)
        if self._released:
            self._kept_files.drop_released()
        if not self._effects:
            return outcome, ()
        effects = tuple(self._effects)
        self._effects.clear()
        return outcome, effects

    def _answer(self, command: LogCommand) -> Answer:
        fingerprint = fingerprint_of(command.body)
        answer = self.requests.answer(command.caller, command.request_id, fingerprint)
        if answer is not None:
            return answer
        outcome = self._carry_out(command)
        if isinstance(outcome, Accepted):
            record = RequestRecord(
                command.caller, command.request_id, command.at_ms, fingerprint, outcome.ids
            )
            self.requests.remember(record, self.settings["request_count_max"])
        return outcome

    def _carry_out(self, command: LogCommand) -> Answer:  # noqa: C901, PLR0912
        body = command.body
        match body:  # The most frequent first.
            case commands.FinishAttempts():
                return self._finish_attempts(command, body)
            case commands.AssignTasks():
                return self._assign_tasks(command, body)
            case commands.SubmitTasks():
                return self._submit_tasks(command, body)
            case commands.ProposeConfig():
                return self._propose_config(command, body)
            case commands.BootstrapCluster():
                return self._bootstrap_cluster(body)
            case commands.CreateJoinToken():
                return self._create_join_token(command, body)
            case commands.RevokeJoinToken():
                return self.members.revoke_token(body.token_id)
            case commands.RedeemJoinToken():
                return self.members.redeem(body, command.at_ms)
            case commands.DecideJoiner():
                return self.members.decide(body, command.at_ms)
            case commands.RegisterNode():
                return self._register_node(command, body)
            case commands.SetLiveness():
                return self._set_liveness(command, body)
            case commands.RemoveNode():
                return self._remove_node(command, body)
            case commands.ReplaceLog():
                return self.members.replace_log(body)
            case commands.RequeueAttempts():
                return self._requeue_attempts(command, body)
            case commands.CancelTask():
                return self._cancel_task(command, body)
            case commands.TimeOutTasks():
                return self._time_out_tasks(command, body)
            case commands.ExpireRecords():
                return self._expire_records(command, body)
            case commands.AddContent():
                return self._kept_files.add(body, command.at_ms)
            case commands.RemoveContent():
                return self._kept_files.remove(body)
            case commands.KeepContent():
                return self._kept_files.keep(body)
            case commands.PutDelegation():
                return self._put_delegation(body)
            case commands.RevokeDelegation():
                return self._revoke_delegation(body)
            case commands.IssueCertificate():
                return self._issue_certificate(command, body)
            case commands.RevokeCertificate():
                return self._revoke_certificate(body)
            case commands.SetAuthority():
                return self._set_authority(body)
            case _:
                assert_never(body)

    def answer_to(self, caller: str, request_id: str, body: CommandBody) -> Answer | None:
        """The answer to a repeat, or that it is none; None for a request that is new."""
        return self.requests.answer(caller, request_id, fingerprint_of(body))

    def needed_by(self, content: Content) -> TaskId | None:
        """A task that has not ended and needs a file; None if there is none."""
        return self._kept_files.needed_by(content)

    def data(self) -> StateData:
        """The whole current state; cheap, since values are shared."""
        return StateData(
            cluster_id=self.cluster_id,
            cluster_name=self.cluster_name,
            cluster_did=self.cluster_did,
            incarnation_last=self.members.incarnation_last,
            principals=self.members.principals(),
            tokens=self.members.tokens(),
            settings=dict(self.settings.changed),
            config_versions=tuple(self.config_history.values()),
            tasks=self.tasks.copy(),
            requests=tuple(self.requests.values()),
            contents=tuple(self.contents.values()),
            delegations=self.delegations.delegations(),
            revocations=self.delegations.revocation_records(),
            certificates=self.certificates.records(),
            certificate_revocations=self.certificates.revocations(),
            authority=self.certificates.authority,
            judged_at_ms=self.judged_at_ms,
        )

    # Members.

    def _bootstrap_cluster(self, body: commands.BootstrapCluster) -> Answer:
        if self.cluster_id:
            return Rejected(Reason.INVALID_ARGUMENT, "the cluster exists already")
        self.cluster_id, self.cluster_name = body.cluster_id, body.cluster_name
        self.cluster_did = body.cluster_did
        begun = ("cluster_id", "cluster_name", "cluster_did")
        self._cluster_touched += (each for each in begun if getattr(self, each))
        self.delegations.put(body.delegations)
        self.certificates.begin(body.certificates, body.authority)
        for principal in body.principals:
            self.members.put(principal)
        return Accepted()

    def _create_join_token(self, command: LogCommand, body: commands.CreateJoinToken) -> Answer:
        creator = Did(command.caller)
        if creator in self.members.removed or self.certificates.revokes(creator):
            # Removed since the call was allowed: its token would outlive it.
            return Rejected(Reason.CALLER_UNKNOWN, "its maker was removed or revoked")
        return self.members.create_token(body, command.caller)

    def _register_node(self, command: LogCommand, body: commands.RegisterNode) -> Answer:
        if not self.members.register(body, command.at_ms):
            return _no_member(body.node_id)
        return Accepted()

    def _set_liveness(self, command: LogCommand, body: commands.SetLiveness) -> Answer:
        for node_id in body.alive:
            self.members.set_liveness(node_id, Liveness.ALIVE, command.at_ms)
        for node_id in body.dead:
            if self.members.set_liveness(node_id, Liveness.DEAD, command.at_ms):
                lost = self.tasks.running_on(node_id)
                self._lose(lost, command.at_ms)
                if lost:
                    # It may still have a session, and its lease may return before it notices.
                    self._effects.append(AttemptsRevoked(node_id, lost))
        return Accepted()

    def _remove_node(self, command: LogCommand, body: commands.RemoveNode) -> Answer:
        if not self.members.remove(body.node_id):
            return _no_member(body.node_id)
        # Otherwise a repeat of its enrolment would be answered as if it were admitted again.
        did = did_from_node_id(body.node_id)
        self.requests.forget_caller(did)
        self.delegations.forget_member(did)
        self.members.revoke_tokens_of(did)
        self.certificates.forget_member(did)
        self._lose(self.tasks.running_on(body.node_id), command.at_ms)
        self._effects.append(CertificatesRevoked())
        return Accepted()

    def _propose_config(self, command: LogCommand, body: commands.ProposeConfig) -> Answer:
        try:
            before, after = self.settings.change(
                body.values, body.if_values, resets=body.with_version
            )
        except ConfigChangedError as error:
            return Rejected(Reason.CONFIG_CHANGED, str(error))
        except ValueError as error:
            return Rejected(Reason.INVALID_ARGUMENT, str(error))
        if after and body.with_version:
            self.config_history.record(command.at_ms, command.caller, before, after)
        return Accepted()

    # Tasks.

    def _submit_tasks(self, command: LogCommand, body: commands.SubmitTasks) -> Answer:
        refused = no_room_for(self.tasks, self.settings, body.specs)
        if refused is not None:
            return refused
        known_types = self.members.task_types()
        for spec in body.specs:
            if spec.task_type not in known_types:
                return Rejected(
                    Reason.TASK_TYPE_UNKNOWN,
                    f"no node has a handler for {spec.task_type!r}; there are handlers for "
                    f"{', '.join(sorted(known_types)) or 'nothing, as no worker has come up'}",
                )
        self._make_room(len(body.specs), sum(len(spec.payload) for spec in body.specs))
        submitter = Did(command.caller)
        request_id = command.request_id if body.with_history else ""
        for task_id, spec in zip(body.task_ids, body.specs, strict=True):
            self.tasks.submit(task_id, spec, submitter, command.at_ms, request_id=request_id)
        return Accepted(body.task_ids)

    def _make_room(self, count: int, payload_bytes: int) -> None:
        make_room(self.tasks, self.settings, count, payload_bytes, forget_max=EXPIRED_MAX)

    def _assign_tasks(self, command: LogCommand, body: commands.AssignTasks) -> Answer:
        assigned: dict[NodeId, list[AttemptId]] = {}
        for task_id, node_id in body.assignments:
            node = self.members.node(node_id)
            if node is None or node.liveness is not Liveness.ALIVE:
                continue
            attempt = self.tasks.assign(task_id, node_id, command.at_ms)
            if attempt is not None:
                assigned.setdefault(node_id, []).append(attempt)
        self._effects += (AttemptsAssigned(n, tuple(ids)) for n, ids in assigned.items())
        return Accepted()

    def _finish_attempts(self, command: LogCommand, body: commands.FinishAttempts) -> Answer:
        changed: list[TaskId] = []
        node = self.members.node(body.node_id)
        # A master that works too holds just the files that were put on it.
        is_source = node is not None and node.role is not Role.MASTER
        for each in body.outcomes:
            has_file = each.result is not None and each.result.cid
            outcome = with_its_file(each, self.contents) if has_file else each
            if not self.tasks.finish(outcome, body.node_id, command.at_ms):
                continue
            changed.append(outcome.id.task_id)
            if outcome.result is not None and outcome.result.cid:
                if is_source:
                    self.contents.hold(outcome.result.cid, (body.node_id,))
                self._kept_files.keep_result(outcome.id.task_id, outcome.result.cid)
        if not changed:
            return Accepted()
        self._make_room(0, 0)  # Results weigh too.
        return Accepted(tuple(changed))

    def _requeue_attempts(self, command: LogCommand, body: commands.RequeueAttempts) -> Answer:
        self._lose(body.ids, command.at_ms)
        return Accepted()

    def _cancel_task(self, command: LogCommand, body: commands.CancelTask) -> Answer:
        task = self.tasks.get(body.task_id)
        if task is None:
            return Rejected(
                Reason.TASK_NOT_FOUND, f"there is no task {body.task_id}; list the tasks"
            )
        if task.state.is_terminal:
            ended = "was" if task.state is TaskState.CANCELLED else "has"
            return Rejected(
                Reason.TASK_FINISHED, f"the task {ended} already {task.state}; see `task get`"
            )
        self._revoke_attempt_of(task)
        self.tasks.cancel(body.task_id, command.at_ms)
        return Accepted((body.task_id,))

    def _time_out_tasks(self, command: LogCommand, body: commands.TimeOutTasks) -> Answer:
        task_types = self.members.task_types(alive=True)
        for task_id in body.task_ids:
            task = self.tasks.get(task_id)
            if task is None or task.state.is_terminal or not 0 < task.deadline_ms <= command.at_ms:
                continue
            self._revoke_attempt_of(task)
            failure = timed_out(task, has_worker=task.spec.task_type in task_types)
            self.tasks.fail(task_id, failure, command.at_ms)
        return Accepted()

    def _revoke_attempt_of(self, task: Task) -> None:
        if task.node_id is not None and self.tasks.running_count(task.node_id):
            attempt = AttemptId(task.task_id, task.attempt)
            self._effects.append(AttemptsRevoked(task.node_id, (attempt,)))

    def _lose(self, attempts: Iterable[AttemptId], at_ms: int) -> None:
        for attempt in attempts:
            self.tasks.lose(attempt, at_ms)

    # Expiry.

    def _expire_records(self, command: LogCommand, body: commands.ExpireRecords) -> Answer:
        at_ms = command.at_ms
        if body.goes_on and self.judged_at_ms:
            at_ms = self.judged_at_ms
        elif self.judged_at_ms:
            # Not by the latest command: a leader with a wrong clock proposes thousands a minute.
            earliest_ms = self.judged_at_ms - EXPIRY_STEP_MS_MAX
            at_ms = max(earliest_ms, min(at_ms, self.judged_at_ms + EXPIRY_STEP_MS_MAX))
        if at_ms != self.judged_at_ms:
            self.judged_at_ms = at_ms
            self._cluster_touched.append("judged_at_ms")
        count_max = body.count_max or EXPIRED_MAX
        tasks = self.tasks.expire(at_ms - self.settings["task_retention"], count_max)
        self.members.expire_tokens(at_ms, TOKEN_KEEP_MS)
        others_max = body.count_max or None
        left = (
            tasks == count_max,
            self.requests.expire(at_ms - self.settings["request_retention"], count_max),
            self.delegations.forget(at_ms // 1000, others_max),
            self.certificates.forget(at_ms // 1000, others_max),
        )
        return Accepted((MORE,) if any(left) else ())

    # Authorization.

    def _put_delegation(self, body: commands.PutDelegation) -> Answer:
        delegations = [d for d in body.delegations if not self._is_ended_grant(d)]
        full = self.delegations.full_for(delegations)
        if full:
            return Rejected(Reason.TOO_MANY_DELEGATIONS, full)
        self.delegations.put(delegations)
        return Accepted(tuple(str(d.cid) for d in body.delegations))

    def _is_ended_grant(self, delegation: StoredDelegation) -> bool:
        """Whether this re-issues a preset delegation that was revoked during the renewal."""
        if delegation.issuer != self.cluster_did or delegation.put_by:
            return False
        client = self.members.get(delegation.audience)
        if client is None or client.removed or not client.grant:
            return True
        return delegation.command in client.ended_commands

    def _revoke_delegation(self, body: commands.RevokeDelegation) -> Answer:
        full = self.delegations.revocations_full(body.revocation, self.cluster_did)
        if full:
            return Rejected(Reason.TOO_MANY_DELEGATIONS, full)
        self._end_grant(body.revocation)
        for revocation in (body.revocation, *body.copies):
            self.delegations.revoke(revocation)
        return Accepted()

    def _end_grant(self, revocation: StoredRevocation) -> None:
        """Prevent a revoked preset delegation from being re-issued at the client's renewal.

        The preset's other commands are re-issued as before. Of an older log, which does not say
        which command it was, all of the preset ends.
        """
        stored = self.delegations.get(revocation.cid)
        if stored is None or not stored.issuer == revocation.revoker == self.cluster_did:
            return
        client = self.members.get(stored.audience)
        if client is None or not client.grant:
            return
        if not stored.command:
            self.members.put(replace(client, grant=""))
        elif stored.command not in client.ended_commands:
            ended = (*client.ended_commands, stored.command)
            self.members.put(replace(client, ended_commands=ended))

    # Certificates.

    def _issue_certificate(self, command: LogCommand, body: commands.IssueCertificate) -> Answer:
        owner = self.members.get(body.record.did)
        if owner is None or owner.removed:
            return Rejected(
                Reason.CALLER_UNKNOWN,
                f"{body.record.did} is not a member of this cluster; join with a new identity",
            )
        refused = self.certificates.refuses(body.record, command.at_ms)
        if refused is not None:
            return refused
        if body.record.epoch != self.certificates.authority.epoch:
            return Rejected(
                Reason.AUTHORITY_SEALED, "the cluster's roots changed meanwhile; try again"
            )
        self.certificates.issue(body.record)
        return Accepted()

    def _revoke_certificate(self, body: commands.RevokeCertificate) -> Answer:
        revocation = body.revocation
        record = self.certificates.get(revocation.serial)
        owner = revocation.did or (Did("") if record is None else record.did)
        if owner in self.members.removed:
            return Accepted()  # Its removal implies the revocation.
        if self.certificates.full():
            return Rejected(
                Reason.OVERLOADED,
                "no more revocations can be remembered; remove members for good instead",
            )
        if record is None and self.members.get(revocation.did) is None:
            return Rejected(
                Reason.CERTIFICATE_NOT_FOUND,
                "no such certificate or member is known; see `cert list`",
            )
        if revocation.did:
            self.members.revoke_tokens_of(revocation.did)
        self.certificates.revoke(revocation)
        self._effects.append(CertificatesRevoked())
        return Accepted()

    def _set_authority(self, body: commands.SetAuthority) -> Answer:
        if not self.certificates.set_authority(body.authority):
            return Rejected(
                Reason.AUTHORITY_SEALED, "the cluster's keys changed meanwhile; try again"
            )
        return Accepted()


def _no_member(node_id: NodeId) -> Rejected:
    return Rejected(
        Reason.MEMBER_NOT_FOUND, f"{node_id} is not a member; list the nodes, or join it"
    )
