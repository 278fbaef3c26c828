"""`task`: submit, get, list, watch, cancel."""

import json
import sys
from datetime import timedelta
from typing import Any, BinaryIO

import click

from ipfs_cluster_node.cli.output import (
    DURATION,
    client_command,
    print_done,
    print_json,
    print_result,
    print_table,
    run_client,
    say,
)
from ipfs_cluster_node.cli.waiting import saying_why_it_waits
from ipfs_cluster_node.core.errors import Exit

STATES = ("pending", "running", "succeeded", "failed", "cancelled")


@click.group()
def task() -> None:
    """Tasks."""


@task.command("submit")
@click.argument("task_type")
@click.option("--payload", type=click.File("rb"), help="File with the payload; - is stdin.")
@click.option("--data", help="The payload as text.")
@click.option("--sql", help="For data_processing: the SELECT.")
@click.option("--input", "inputs", multiple=True, help="NAME=CID or NAME=CID:FORMAT.")
@click.option("--attempt-timeout", type=DURATION, help="Time limit of one attempt.")
@click.option("--priority", type=click.IntRange(0, 9), default=0, help="9 goes first.")
@click.option("--namespace", default="default", help="Its namespace: a/b. [default: default]")
@click.option("--request-id", help="Makes a repeat safe: the same id gives the same task.")
@click.option("--wait", is_flag=True, help="Wait for the end, and print the result.")
@click.option("--timeout", type=DURATION, default="1h", show_default=True, help="For --wait.")
@client_command
def submit_task(
    profile: str | None,
    *,
    task_type: str,
    payload: BinaryIO | None,
    data: str | None,
    sql: str | None,
    inputs: tuple[str, ...],
    attempt_timeout: timedelta | None,
    priority: int,
    namespace: str,
    request_id: str | None,
    wait: bool,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Submit a task and print its id; with --wait its result.

    Example: ipfs-cluster-node task submit data_processing --input input=CID --sql "SELECT count(*)
    FROM input" --wait
    """
    if sum(given is not None for given in (payload, data, sql)) > 1:
        raise click.UsageError("give one of --payload, --data and --sql")
    content: bytes | str | dict[str, Any] = b""
    if payload is not None:
        content = payload.read()
    elif data is not None:
        content = data
    elif sql is not None:
        content = {"sql": sql}
    named = [_input(text) for text in inputs]

    async def submit(client: Any) -> tuple[str, Any]:
        async with saying_why_it_waits(client):
            task_id = await client.submit_task(
                task_type,
                content,
                inputs=named,
                attempt_timeout=attempt_timeout,
                priority=priority,
                namespace=namespace,
                request_id=request_id,
            )
        if not wait:
            return task_id, None
        # So that the task can be found even if waiting fails.
        say(f"task {task_id}", err=True)
        async with saying_why_it_waits(client, [task_id]):
            ended = await client.wait_tasks([task_id], timeout=timeout)
        return task_id, ended[task_id]

    task_id, ended = run_client(profile, submit)
    if ended is not None:
        _print_ended(ended, as_json=as_json)
    else:
        print_done({"task_id": task_id}, task_id, as_json)


def _input(text: str) -> tuple[str, str, str]:
    name, separator, rest = text.partition("=")
    if not separator:
        raise click.UsageError(f"--input {text!r}: write NAME=CID")
    cid, _, file_format = rest.partition(":")
    return name, cid, file_format


@task.command("get")
@click.argument("task_id")
@client_command
def get_task(profile: str | None, task_id: str, *, as_json: bool) -> None:
    """Print one task."""
    found = run_client(profile, lambda client: client.get_task(task_id))
    document = _document(found)
    if as_json:
        print_json(document)
        return
    if found.failure is not None:
        document["failure"] = f"{found.failure.message} [{found.failure.reason}]"
    for key, value in document.items():
        say(f"{key:12} {value}")
    if found.failure is not None:
        _say_output(found.failure)


@task.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only these.")
@click.option("--type", "task_type", default="", help="Only this type.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True)
@client_command
def list_tasks(
    profile: str | None, *, states: tuple[str, ...], task_type: str, limit: int, as_json: bool
) -> None:
    """List tasks, the newest first."""
    from ipfs_cluster_node.core.model import TaskState

    found = run_client(
        profile,
        lambda client: client.list_tasks(
            states=[TaskState(state) for state in states], task_type=task_type, limit=limit
        ),
    )
    if as_json:
        print_json([_document(each) for each in found])
        return
    print_table(
        "Tasks",
        ("task", "type", "state", "attempt", "node", "failure"),
        (
            (
                each.task_id,
                each.spec.task_type,
                each.state,
                each.attempt,
                each.node_id or "",
                each.failure.message if each.failure else "",
            )
            for each in found
        ),
    )


@task.command("watch")
@click.argument("task_ids", nargs=-1, required=True)
@click.option("--timeout", type=DURATION, default="1h", show_default=True)
@client_command
def watch_tasks(
    profile: str | None, task_ids: tuple[str, ...], *, timeout: timedelta, as_json: bool
) -> None:
    """Print each change of tasks until all have ended."""

    async def watch(client: Any) -> bool:
        all_succeeded = True
        waiting = list(task_ids)
        async with saying_why_it_waits(client, waiting):
            async for watched in client.watch_tasks(task_ids, timeout=timeout):
                each = watched.task
                if as_json:
                    print_json(_document(each))
                else:
                    done = f" {watched.progress_ratio:.0%}" if watched.progress_ratio else ""
                    why = f": {each.failure.message}" if each.failure else ""
                    say(f"{each.task_id} {each.state} attempt {each.attempt}{done}{why}")
                if each.state.is_terminal and each.task_id in waiting:
                    waiting.remove(each.task_id)
                all_succeeded &= not (each.state.is_terminal and each.state != "succeeded")
        return all_succeeded

    if not run_client(profile, watch):
        sys.exit(Exit.TASK_FAILED)


@task.command("cancel")
@click.argument("task_id")
@client_command
def cancel_task(profile: str | None, task_id: str, *, as_json: bool) -> None:
    """Cancel a task; a running attempt is killed."""
    run_client(profile, lambda client: client.cancel_task(task_id))
    print_done({"task_id": task_id, "state": "cancelled"}, f"{task_id} is cancelled", as_json)


def _print_ended(ended: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(_document(ended))
    elif ended.failure is not None:
        say(f"error: the task failed: {ended.failure.message} [{ended.failure.reason}]", err=True)
        _say_output(ended.failure, err=True)
    elif ended.result is None:
        say(f"error: the task is {ended.state}", err=True)
    elif not _print_rows(ended.result):
        print_result(ended.result.data)
        if ended.result.cid:
            say(f"{ended.result.size_bytes} bytes in {ended.result.cid}", err=True)
    if ended.state != "succeeded":
        sys.exit(Exit.TASK_FAILED)


def _say_output(failure: Any, *, err: bool = False) -> None:
    """Print the end of a failed attempt's output, line by line."""
    if failure.output_tail:
        lines = failure.output_tail.removesuffix("\n").split("\n")
        say("the last of its output:", *(f"  {line}" for line in lines), err=err)


def _print_rows(result: Any) -> bool:
    """Print a result of data_processing as a table; False if it is not one."""
    document = _data(result)
    if not isinstance(document, dict) or not {"columns", "rows", "row_count"} <= document.keys():
        return False
    if document["rows"] is None:
        say(f"{document['row_count']} rows in {result.cid} ({result.size_bytes} bytes)")
    else:
        names = [column["name"] for column in document["columns"]]
        print_table(f"{document['row_count']} rows, also in {result.cid}", names, document["rows"])
    return True


def _document(each: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "task_id": each.task_id,
        "task_type": each.spec.task_type,
        "state": each.state.value,
        "attempt": each.attempt,
        "node_id": each.node_id,
        "submitted_at_ms": each.submitted_at_ms,
        "finished_at_ms": each.finished_at_ms or None,
    }
    if each.result is not None:
        document["result"] = {
            "content_type": each.result.content_type,
            "cid": each.result.cid or None,
            "size_bytes": each.result.size_bytes,
            "data": _data(each.result),
        }
    if each.failure is not None:
        document["failure"] = {
            "reason": each.failure.reason.value,
            "message": each.failure.message,
            "output_tail": each.failure.output_tail,
        }
    return document


def _data(result: Any) -> Any:
    """Inline data for JSON: JSON as it is, text as text, other bytes in base64."""
    import base64

    if not result.data:
        return None
    try:
        text: str = result.data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(result.data).decode()}
    if result.content_type != "application/json":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # Declared as JSON by its handler, but it is not.
