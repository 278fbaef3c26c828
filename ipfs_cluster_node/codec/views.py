"""Values returned to clients, on the wire."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from ipfs_cluster_node.codec.derived import By, Codec, codec
from ipfs_cluster_node.codec.enums import (
    AUDIT_OBJECT_KIND,
    CALLER_CLASS,
    FILE_FORMAT,
    GRANT,
    LIVENESS,
    OUTCOME,
    PHASE,
    ROLE,
    SETTING_KIND,
    TASK_STATE,
)
from ipfs_cluster_node.codec.tasks import (
    BY_TIMEOUT,
    TIMEOUTS,
    duration_of_ms,
    ms_of_duration,
    ms_of_timestamp,
    reason_from_proto,
    reason_to_proto,
    timestamp_of_ms,
)
from ipfs_cluster_node.core import views
from ipfs_cluster_node.core.audit import AuditRecord
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.json_values import json_value
from ipfs_cluster_node.core.model import Task, TaskInput, TaskState
from ipfs_cluster_node.core.task_details import TaskDetails
from ipfs_cluster_node.v1 import (
    audit_pb2,
    authorization_pb2,
    certificate_pb2,
    content_pb2,
    enrolment_pb2,
    health_pb2,
    membership_pb2,
    task_dispatch_pb2,
)

T = TypeVar("T")
M = TypeVar("M", bound=Message)

JSON_TYPE: Final = "application/json"

_TIMES: Final = {
    "added_at_ms": "add_time",
    "asked_at_ms": "ask_time",
    "assigned_at_ms": "assign_time",
    "at_ms": "time",
    "enrolled_at_ms": "enrol_time",
    "ended_at_ms": "end_time",
    "expires_at_ms": "expire_time",
    "finished_at_ms": "finish_time",
    "issued_at_ms": "issue_time",
    "liveness_at_ms": "liveness_time",
    "not_before_ms": "not_before_time",
    "phase_at_ms": "phase_time",
    "proposed_at_ms": "propose_time",
    "submitted_at_ms": "submit_time",
}
"""Fields that are timestamps in a message."""
_CODECS: Final[dict[type, Codec[Any, Any]]] = {}


def _view(
    kind: type[T],
    message: type[M],
    *,
    by: dict[str, By] | None = None,
    renamed: dict[str, str] | None = None,
    unused: str = "",
) -> Codec[T, M]:
    times = {name: wire for name, wire in _TIMES.items() if name in kind.__annotations__}
    as_times = dict.fromkeys(times, By(timestamp_of_ms, ms_of_timestamp))
    derived = codec(
        kind,
        message,
        codecs=_CODECS,
        renamed=times | (renamed or {}),
        by=as_times | (by or {}),
        unused=unused,
    )
    _CODECS[kind] = derived
    return derived


def task_counts_to_proto(counts: Mapping[TaskState, int]) -> Any:
    """The number of tasks in each state."""
    return [{"state": TASK_STATE.numbers[state], "count": n} for state, n in counts.items()]


def _counts_from_proto(counts: Iterable[membership_pb2.TaskCount]) -> dict[TaskState, int]:
    known = TASK_STATE.words
    return {known[each.state]: each.count for each in counts if each.state in known}


def _reason_to_proto(reason: Reason | None) -> int | None:
    return None if reason is None else reason_to_proto(reason)


def _reason_from_proto(value: int) -> Reason | None:
    return reason_from_proto(value) if value else None


AUDIT_RECORD: Final = _view(
    AuditRecord,
    audit_pb2.AuditRecord,
    renamed={"caller": "caller_did"},
    by={
        "caller_class": CALLER_CLASS.by,
        "outcome": OUTCOME.by,
        "object_kind": AUDIT_OBJECT_KIND.by,
        "arguments": By(dict, lambda said: tuple(sorted(said.items()))),
    },
)
_BY_AGE: Final = By(lambda ms: duration_of_ms(ms) if ms else None, ms_of_duration)
_AGE: Final = {"content_age_ms": "content_age"}
_view(views.MasterEndpoint, enrolment_pb2.MasterEndpoint)
CLUSTER_STATUS: Final = _view(
    views.ClusterStatus,
    membership_pb2.GetClusterStatusResponse,
    renamed=_AGE,
    by={"task_counts": By(task_counts_to_proto, _counts_from_proto), "content_age_ms": _BY_AGE},
)
NODE: Final = _view(
    views.ListedNode,
    membership_pb2.Node,
    renamed=_AGE,
    by={"role": ROLE.by, "liveness": LIVENESS.by, "content_age_ms": _BY_AGE},
)
_ROLE_AND_GRANT: Final = {"role": ROLE.by, "grant": GRANT.by}
NEW_JOIN_TOKEN: Final = _view(views.NewJoinToken, membership_pb2.CreateJoinTokenResponse)
JOIN_TOKEN: Final = _view(views.ListedJoinToken, membership_pb2.JoinToken, by=_ROLE_AND_GRANT)
JOINER: Final = _view(views.ListedJoiner, membership_pb2.Joiner, by=_ROLE_AND_GRANT)
SETTING: Final = _view(
    views.ListedSetting, membership_pb2.ConfigEntry, by={"kind": SETTING_KIND.by}
)
PLANNED_SETTING: Final = _view(views.PlannedSetting, membership_pb2.PlannedChange)
_view(views.ConfigChange, membership_pb2.ConfigChange)
CONFIG_VERSION: Final = _view(views.ListedConfigVersion, membership_pb2.ConfigVersion)
_RAFT: Final = _view(views.RaftHealth, health_pb2.RaftHealth)
_view(views.HealthCheck, health_pb2.HealthCheck)
HEALTH: Final = _view(
    views.HealthReport,
    health_pb2.GetHealthResponse,
    by={
        "role": ROLE.by,
        "raft": By(lambda raft: _RAFT.encode(raft) if raft.voters else None, _RAFT.decode),
    },
)
_view(views.ContentHolder, content_pb2.ContentHolder)
CONTENT: Final = _view(views.ListedContent, content_pb2.Content)
REMOVED_CONTENT: Final = _view(views.RemovedContent, content_pb2.RemoveContentResponse)
CERTIFICATE: Final = _view(views.ListedCertificate, certificate_pb2.Certificate)
ROTATION: Final = _view(
    views.RotationStatus, certificate_pb2.GetRotationResponse, by={"phase": PHASE.by}
)
DELEGATION: Final = _view(views.ListedDelegation, authorization_pb2.Delegation)
CALLER: Final = _view(
    views.CallerStatus,
    authorization_pb2.GetCallerResponse,
    by={"caller_class": CALLER_CLASS.by},
    unused="next_page_token",
)
_view(views.LinkExplanation, authorization_pb2.LinkExplanation)
_view(views.RequirementExplanation, authorization_pb2.AskExplanation)
ACCESS: Final = _view(
    views.AccessExplanation,
    authorization_pb2.ExplainAccessResponse,
    renamed={"requirements": "asks"},
)
_view(TaskInput, task_dispatch_pb2.TaskInput, by={"format": FILE_FORMAT.by})
_view(
    views.ListedSpec,
    task_dispatch_pb2.TaskSpec,
    renamed=TIMEOUTS,
    by=BY_TIMEOUT,
)
_view(
    views.ListedAttempt,
    task_dispatch_pb2.TaskAttempt,
    by={"reason": By(_reason_to_proto, _reason_from_proto)},
)
_view(views.TaskWaiting, task_dispatch_pb2.TaskWaiting)
_view(views.ListedResult, task_dispatch_pb2.TaskResult)
_view(
    views.ListedFailure,
    task_dispatch_pb2.TaskFailure,
    by={"reason": By(reason_to_proto, reason_from_proto)},
)
_view(
    views.TaskStatus,
    task_dispatch_pb2.TaskStatus,
    by={"state": TASK_STATE.by},
)
TASK: Final = _view(views.ListedTask, task_dispatch_pb2.Task)


def details_to_proto(message: task_dispatch_pb2.Task, task: Task, details: TaskDetails) -> None:
    """Add to an encoded task what only the answer to `GetTask` has."""
    if task.kept_payload is not None:
        message.spec.payload = task.kept_payload
    status = message.status
    status.submitter_name, status.node_name = details.submitter_name, details.node_name
    status.request_id = task.request_id
    status.attempts.extend(map(_CODECS[views.ListedAttempt].encode, details.attempts))
    if details.waiting is not None:
        status.waiting.CopyFrom(_CODECS[views.TaskWaiting].encode(details.waiting))


def json_document(view: Any) -> Any:
    """The JSON form of a view or an audit record: protobuf's mapping of its message.

    A task's payload and inline result alone are shown decoded, as docs/json.md says.
    """
    from google.protobuf.json_format import MessageToDict  # Where JSON is asked for only.

    document: dict[str, Any] = MessageToDict(
        _CODECS[type(view)].encode(view),
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
    document.pop("next_page_token", None)  # A view is of all pages.
    if isinstance(view, views.ListedTask):
        spec, result = view.spec, view.status.result
        names = ("payload", "payload_json", "payload_text")
        _show_data(document["spec"], spec.payload, spec.content_type, names)
        if result is not None:
            of_result = document["status"]["result"]
            _show_data(of_result, result.data, result.content_type, ("data", "json", "text"))
    return document


def _show_data(
    document: dict[str, Any], data: bytes | None, content_type: str, names: tuple[str, str, str]
) -> None:
    """Replace a field of bytes by its JSON value or its text, if it is that."""
    if not data:
        return
    in_base64, as_json, as_text = names
    with suppress(ValueError, RecursionError):  # Other bytes stay, in base64.
        text = data.decode()
        del document[in_base64]
        document[as_text] = text
        if content_type == JSON_TYPE:
            # Declared as JSON, which may be wrong.
            document[as_json] = json_value(json.loads(text, parse_constant=_refuse))
            del document[as_text]


def _refuse(constant: str) -> Any:
    raise ValueError(constant)
