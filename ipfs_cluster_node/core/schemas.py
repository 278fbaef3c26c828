"""The tables of the state that callers read, one line a column.

Arrow, policies, the command line and the docs read these lists. A new column goes to the end of
its table.
"""

from collections.abc import Mapping
from typing import Final

from ipfs_cluster_node.core.columns import Column, Kind, Schema
from ipfs_cluster_node.core.ids import Did, NodeId
from ipfs_cluster_node.core.model import DEFAULT_NAMESPACE, Content, Principal, Task

NODES: Final = Schema(
    "nodes",
    {"node": Principal, "voter": bool, "running_attempt_count": int},
    (
        Column("node_id", Kind.STRING, "node.node_id"),
        Column("name", Kind.STRING, "node.name"),
        Column("role", Kind.STRING, "node.role", judged_as="role"),
        Column("liveness", Kind.STRING, "node.liveness"),
        Column("endpoints", Kind.STRINGS, "node.endpoints"),
        Column("voter", Kind.BOOL, "voter"),
        Column("task_types", Kind.STRINGS, "node.task_types"),
        Column("slot_count", Kind.INT32, "node.slot_count"),
        Column("running_attempt_count", Kind.INT32, "running_attempt_count"),
        Column("version", Kind.STRING, "node.version"),
        Column("enrol_time", Kind.TIME, "node.enrolled_at_ms"),
        Column("liveness_time", Kind.TIME, "node.liveness_at_ms"),
    ),
)

TASKS: Final = Schema(
    "tasks",
    {"task": Task, "caller": Did},
    (
        Column("task_id", Kind.STRING, "task.task_id"),
        Column("task_type", Kind.STRING, "task.spec.task_type", judged_as="task_type"),
        Column("namespace", Kind.STRING, "task.spec.namespace", judged_as="namespace"),
        Column("state", Kind.STRING, "task.state"),
        Column("submitter", Kind.STRING, "task.submitter", judged_as="owner"),
        Column("attempt", Kind.INT32, "task.attempt"),
        Column("node_id", Kind.STRING, "task.node_id"),
        Column("priority", Kind.INT32, "task.spec.priority"),
        Column("submit_time", Kind.TIME, "task.submitted_at_ms"),
        Column("assign_time", Kind.TIME, "task.assigned_at_ms", empty_is_null=True),
        Column("finish_time", Kind.TIME, "task.finished_at_ms", empty_is_null=True),
        Column("result_cid", Kind.STRING, "task.result.cid", empty_is_null=True),
        Column("result_size_bytes", Kind.INT64, "task.result.size_bytes"),
        Column("failure_reason", Kind.STRING, "task.final_failure.reason"),
        Column("failure_message", Kind.STRING, "task.final_failure.message"),
    ),
    computed={"self": "task.submitter == caller"},
)

CONTENT: Final = Schema(
    "content",
    {"content": Content, "holder": NodeId, "namespaces": tuple[str, ...]},
    (
        Column("cid", Kind.STRING, "content.cid", judged_as="cid"),
        Column("node_id", Kind.STRING, "holder"),
        Column("size_bytes", Kind.INT64, "content.size_bytes", judged_as="size"),
        Column("name", Kind.STRING, "content.name"),
        Column("add_time", Kind.TIME, "content.added_at_ms"),
        Column("namespaces", Kind.STRINGS, "namespaces"),
    ),
    computed={"namespace": repr(DEFAULT_NAMESPACE)},
)
"""One row for each file and each of its holders."""

CONFIG: Final = Schema(
    "config",
    {"key": str, "value": str, "default": str},
    (
        Column("key", Kind.STRING, "key"),
        Column("value", Kind.STRING, "value"),
        Column("default", Kind.STRING, "default"),
    ),
)
"""Every setting, and every user's key that is set; `default` is empty for the latter."""

SCHEMAS: Final = (NODES, TASKS, CONTENT, CONFIG)

ROW_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    NODES.name: ("node_id",),
    TASKS.name: ("task_id",),
    CONTENT.name: ("cid", "node_id"),
    CONFIG.name: ("key",),
}
"""The columns that identify a row. The first is what changes and deletions of rows are named by."""

STATE_TABLES: Final = tuple(schema.name for schema in SCHEMAS)
