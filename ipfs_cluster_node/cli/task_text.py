"""A task for people: what was asked, who asked, each attempt, and what became of it."""

import json
from collections.abc import Iterator
from typing import Any, Final

from ipfs_cluster_node.cli.times import duration_text, local_time_text
from ipfs_cluster_node.core.sql import SQL_TASK_TYPE
from ipfs_cluster_node.core.task_details import waiting_words
from ipfs_cluster_node.core.views import ListedAttempt, ListedTask

ASKED_CHARS_MAX: Final = 2000
"""Of a payload, for people."""

ATTEMPT_COLUMNS: Final = ("attempt", "node", "assigned", "ran", "ended")
LIST_COLUMNS: Final = (
    *("task", "type", "namespace", "state", "age", "took", "by", "node", "failure"),
)
LIST_DROPPED: Final = ("failure", "namespace", "took", "by", "node")
"""What a narrow terminal does not show, the first first."""


def lines_of(task: ListedTask, now_ms: int) -> Iterator[tuple[str, str]]:
    """What people want to know of a task, as names and values."""
    spec, status = task.spec, task.status
    yield "task", task.task_id
    yield "type", spec.task_type
    yield "namespace", spec.namespace
    yield "state", str(status.state or "unknown")
    if status.waiting is not None:
        yield "waits", waiting_words(spec.task_type, status.waiting)
    yield "submitted", _with_age(status.submitted_at_ms, now_ms)
    yield "by", _named(status.submitter_name, status.submitter_did)
    yield "request", status.request_id
    yield from _limits(task)
    if status.finished_at_ms:
        took = duration_text(status.finished_at_ms - status.submitted_at_ms)
        yield "ended", f"{local_time_text(status.finished_at_ms)}, after {took}"
    if status.progress_ratio is not None:
        yield "progress", f"{status.progress_ratio:.0%} {status.progress_note}".rstrip()
    if spec.keep_result:
        yield "result", "asked to be kept until it is removed with `content rm`"
    for each in spec.inputs:
        of_format = f" ({each.format})" if each.format else ""
        yield "input", f"{each.name} = {each.cid}{of_format}"
    yield from _asked(task)


def _limits(task: ListedTask) -> Iterator[tuple[str, str]]:
    spec, status = task.spec, task.status
    limits = [f"{duration_text(spec.attempt_timeout_ms)} for an attempt"]
    if spec.task_timeout_ms:
        limits.insert(0, f"{duration_text(spec.task_timeout_ms)} in all")
    counted = f"{status.failed_attempt_count} of {spec.attempt_count_max or 0} attempts failed"
    yield "time limit", ", ".join(limits)
    if spec.task_timeout_ms and not status.finished_at_ms:
        yield "ends by", local_time_text(status.submitted_at_ms + spec.task_timeout_ms)
    if status.failed_attempt_count or status.lost_attempt_count:
        lost = f", {status.lost_attempt_count} lost" if status.lost_attempt_count else ""
        yield "failures", f"{counted}{lost}"


def _asked(task: ListedTask) -> Iterator[tuple[str, str]]:
    """The payload: the query of a SQL task, else its text, else its size."""
    payload, size = task.spec.payload, task.status.payload_size_bytes
    if payload is None:
        if size:
            yield "payload", f"{size} bytes"
        return
    if not payload:
        return
    try:
        text = payload.decode()
        if task.spec.task_type == SQL_TASK_TYPE and (query := _query_of(json.loads(text))):
            for line in query.strip().splitlines():
                yield "sql", line.expandtabs()
            for name, value in _parameters_of(json.loads(text)):
                yield "parameters", _cut(f"{name} = {json.dumps(value, ensure_ascii=False)}")
            return
    except ValueError:
        text = ""  # Neither text nor, of a SQL task, JSON.
    if not text:
        yield "payload", f"{len(payload)} bytes of {task.spec.content_type}"
        return
    for line in _cut(text).splitlines():
        yield "payload", line.expandtabs()


def _cut(text: str) -> str:
    return f"{text[:ASKED_CHARS_MAX]}… (--json has it whole)" if text[ASKED_CHARS_MAX:] else text


def _parameters_of(document: Any) -> Iterator[tuple[str, Any]]:
    parameters = document.get("parameters")
    if isinstance(parameters, dict):
        yield from ((n, v) for n, v in parameters.items() if n not in ("sql", "text_inputs"))


def _query_of(document: Any) -> str:
    if not isinstance(document, dict):
        return ""
    parameters = document.get("parameters")
    query = document.get("sql") or (isinstance(parameters, dict) and parameters.get("sql"))
    return query if isinstance(query, str) else ""


def attempt_row(task: ListedTask, each: ListedAttempt, now_ms: int) -> tuple[str, ...]:
    """A row of `ATTEMPT_COLUMNS`."""
    ended_ms = each.ended_at_ms
    if each.reason is not None:
        ended = f"{each.message} [{each.reason}]"
    elif ended_ms:
        ended = str(task.status.state)
    else:
        ended = "runs"
    return (
        str(each.attempt),
        each.node_name or each.node_id,
        local_time_text(each.assigned_at_ms),
        duration_text((ended_ms or now_ms) - each.assigned_at_ms),
        ended,
    )


def list_row(task: ListedTask, now_ms: int, *, names: bool) -> tuple[Any, ...]:
    """A row of `LIST_COLUMNS` after the id, with names instead of ids."""
    status = task.status
    took = duration_text(status.finished_at_ms - status.submitted_at_ms)
    return (
        task.spec.task_type,
        task.spec.namespace,
        status.state or "unknown",
        duration_text(now_ms - status.submitted_at_ms),
        took if status.has_ended else "",
        (names and status.submitter_name) or status.submitter_did,
        (names and status.node_name) or status.node_id,
        status.failure.message if status.failure else "",
    )


def _named(name: str, of_id: str) -> str:
    return f"{name} ({of_id})" if name else of_id


def _with_age(at_ms: int, now_ms: int) -> str:
    return f"{local_time_text(at_ms)}, {duration_text(now_ms - at_ms)} ago"
