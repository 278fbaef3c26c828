"""`task`: submit, get, list, watch, wait, cancel."""

import sys
from datetime import timedelta
from typing import Any, BinaryIO

import click

from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.cli.completing import (
    completed_task_types,
    completed_tasks,
    completed_tasks_that_go_on,
)
from ipfs_cluster_node.cli.groups import Group
from ipfs_cluster_node.cli.ids import shown_ids, wide_option
from ipfs_cluster_node.cli.output import (
    DURATION,
    WAIT,
    client_command,
    command_line,
    hint,
    json_document,
    one_of,
    print_done,
    print_json,
    print_result,
    print_table,
    print_views,
    run_client,
    say,
)
from ipfs_cluster_node.cli.parameters import parameter_option
from ipfs_cluster_node.cli.waiting import (
    continuing,
    saying_what_continues,
    saying_why_it_waits,
    wait_shown,
)
from ipfs_cluster_node.core.authorization import TASK_READ
from ipfs_cluster_node.core.errors import Exit
from ipfs_cluster_node.core.model import ATTEMPT_COUNT_DEFAULT, ATTEMPT_COUNT_MAX, TaskState
from ipfs_cluster_node.core.names import TASK
from ipfs_cluster_node.core.sql import sql_payload


@click.group(cls=Group)
def task() -> None:
    """Submit, list, watch and cancel tasks."""


@task.command("submit")
@click.argument("task_type", shell_complete=completed_task_types)
@click.option("--payload", type=click.File("rb"), help="File with the payload; - is stdin.")
@click.option("--data", help="The payload as text.")
@click.option(
    "--sql", help="The SELECT, for data_processing. [default: describe the columns of the inputs]"
)
@parameter_option
@click.option(
    "--input",
    "inputs",
    multiple=True,
    help="NAME=FILE, which is added first, or NAME=CID; append :FORMAT to name its format.",
)
@click.option("--attempt-timeout", type=DURATION, help="Time limit of one attempt. [default: 10m]")
@click.option(
    "--task-timeout",
    type=DURATION,
    help="Time limit from submission to the end, waiting included. [default: 7d]",
)
@click.option(
    "--attempt-count-max",
    type=click.IntRange(1, ATTEMPT_COUNT_MAX),
    default=ATTEMPT_COUNT_DEFAULT,
    show_default=True,
    help="How many attempts may fail before the task fails.",
)
@click.option("--priority", type=click.IntRange(0, 9), default=0, help="9 runs first.")
@click.option(
    "--namespace",
    default="default",
    help="The task's namespace, such as team-a/nightly. [default: default]",
)
@click.option(
    "--keep-result",
    is_flag=True,
    help="Keep the file of its result until it is removed, not only as long as the task.",
)
@click.option("--request-id", help="Makes a retry safe: the same id returns the same task.")
@click.option("--wait", is_flag=True, help="Wait until the task has ended, and print the result.")
@click.option(
    "--timeout",
    type=WAIT,
    default="1h",
    show_default=True,
    help="How long --wait waits; the task continues.",
)
@client_command
def submit_task(
    profile: str | None,
    *,
    task_type: str,
    payload: BinaryIO | None,
    data: str | None,
    sql: str | None,
    parameters: tuple[tuple[str, Any], ...],
    inputs: tuple[str, ...],
    attempt_timeout: timedelta | None,
    task_timeout: timedelta | None,
    attempt_count_max: int,
    priority: int,
    namespace: str,
    keep_result: bool,
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
    if parameters and (payload, data) != (None, None):
        raise click.UsageError("--param is for a task without --payload and --data")
    content: bytes | str | dict[str, Any] = b""
    if payload is not None:
        content = payload.read()
    elif data is not None:
        content = data
    elif sql is not None or parameters:
        content = sql_payload(sql, dict(parameters))
    from ipfs_cluster_node.cli.given_inputs import add_inputs, parse_inputs

    given = parse_inputs(inputs)

    async def submit(client: Any) -> tuple[str, Any]:
        named = await add_inputs(client, given, namespace=namespace)
        async with saying_why_it_waits(client):
            task_id = await client.submit_task(
                task_type,
                content,
                inputs=named,
                attempt_timeout=attempt_timeout,
                task_timeout=task_timeout,
                attempt_count_max=attempt_count_max,
                priority=priority,
                namespace=namespace,
                keep_result=keep_result,
                request_id=request_id,
            )
        if not wait:
            return task_id, None
        # So that the task can be found even if waiting fails.
        hint(f"task {task_id}")
        lines[:] = continuing(profile, task_id)
        return task_id, await wait_shown(client, task_id, timeout)

    with saying_what_continues() as lines:
        task_id, ended = run_client(profile, submit)
    if ended is not None:
        _print_ended(ended, as_json=as_json)
    else:
        print_done({"task_id": task_id}, task_id, as_json)


@task.command("get")
@click.argument("task_id", shell_complete=completed_tasks)
@client_command
def get_task(profile: str | None, task_id: str, *, as_json: bool) -> None:
    """Print one task: what was asked, each attempt, and the result."""
    from ipfs_cluster_node.cli import task_text

    found = run_client(profile, lambda client: client.get_task(task_id))
    if as_json:
        print_json(json_document(found))
        return
    now_ms = SYSTEM_CLOCK.wall_ms()
    said = ""
    for name, value in task_text.lines_of(found, now_ms):
        if value:  # A name that repeats is said once.
            say(f"{'' if name == said else name:12} {value}")
            said = name
    if found.status.attempts:
        rows = (task_text.attempt_row(found, each, now_ms) for each in found.status.attempts)
        print_table("attempts", task_text.ATTEMPT_COLUMNS, rows)
    failure = found.status.failure
    if found.status.result is not None:
        say("result")
        _print_result(found, as_text=True)
    elif failure is not None:
        say(f"failure      {failure.message} [{failure.reason}]")
        _say_output(failure)


@task.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=one_of(TaskState),
    help="Only in this state; repeat for more.",
)
@click.option(
    "--type",
    "task_type",
    default="",
    shell_complete=completed_task_types,
    help="Only of this type.",
)
@click.option(
    "--namespace",
    metavar="PATTERN",
    default="",
    help="Only in this namespace; team-a/* is all below.",
)
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True)
@wide_option
@client_command
def list_tasks(
    profile: str | None,
    *,
    states: tuple[str, ...],
    task_type: str,
    namespace: str,
    limit: int,
    wide: bool,
    as_json: bool,
) -> None:
    """List tasks, the newest first."""
    from ipfs_cluster_node.cli.rights_text import say_if_limited
    from ipfs_cluster_node.cli.task_text import LIST_COLUMNS, LIST_DROPPED, list_row

    async def ask(client: Any) -> Any:
        found = await client.list_tasks(
            states=[TaskState(state) for state in states],
            task_type=task_type,
            namespace_pattern=namespace,
            limit=limit,
        )
        await say_if_limited(client, found, TASK_READ)
        return found

    found = run_client(profile, ask)
    now_ms = SYSTEM_CLOCK.wall_ms()
    shown = shown_ids(TASK, [each.task_id for each in found], wide=wide)
    # By names as tables show ids, whole for programs.
    names = sys.stdout.isatty() and not wide
    print_views(
        found,
        as_json,
        "Tasks",
        LIST_COLUMNS,
        lambda each: (shown(each.task_id), *list_row(each, now_ms, names=names)),
        dropped=() if wide else LIST_DROPPED,
    )


@task.command("watch")
@click.argument("task_ids", nargs=-1, required=True, shell_complete=completed_tasks)
@click.option("--timeout", type=WAIT, default="1h", show_default=True)
@client_command
def watch_tasks(
    profile: str | None, task_ids: tuple[str, ...], *, timeout: timedelta, as_json: bool
) -> None:
    """Print each change of tasks until all have ended."""
    _follow(profile, task_ids, timeout, as_json=as_json, ends_only=False)


@task.command("wait")
@click.argument("task_ids", nargs=-1, required=True, shell_complete=completed_tasks)
@click.option(
    "--timeout",
    type=WAIT,
    default="1h",
    show_default=True,
    help="How long to wait; the tasks continue.",
)
@client_command
def wait_tasks(
    profile: str | None, task_ids: tuple[str, ...], *, timeout: timedelta, as_json: bool
) -> None:
    """Wait until tasks have ended, and print how each ended.

    The exit status is 0 if all succeeded, 6 if one failed or was cancelled, 7 if one continues
    after --timeout, and 5 if there is no such task.
    """
    _follow(profile, task_ids, timeout, as_json=as_json, ends_only=True)


def _follow(
    profile: str | None,
    task_ids: tuple[str, ...],
    timeout: timedelta,
    *,
    as_json: bool,
    ends_only: bool,
) -> None:
    """Print the changes, or only the ends, of tasks; exits with TASK_FAILED unless all succeed."""

    async def follow(client: Any) -> bool:
        all_succeeded = True
        waiting = list(dict.fromkeys(await client.lookups.task_ids(task_ids)))
        lines[:] = continuing(profile, *waiting)
        async with saying_why_it_waits(client, waiting):
            async for each in client.watch_tasks(list(waiting), timeout=timeout):
                status = each.status
                if ends_only and not (status.has_ended and each.task_id in waiting):
                    continue
                if as_json:
                    print_json(json_document(each))
                else:
                    done = f" {status.progress_ratio:.0%}" if status.progress_ratio else ""
                    why = f": {status.failure.message}" if status.failure else ""
                    say(f"{each.task_id} {status.state} attempt {status.attempt}{done}{why}")
                if status.has_ended and each.task_id in waiting:
                    waiting.remove(each.task_id)
                    lines[:] = continuing(profile, *waiting) if waiting else []
                all_succeeded &= not status.has_ended or status.state == "succeeded"
        return all_succeeded

    with saying_what_continues() as lines:
        all_succeeded = run_client(profile, follow)
    if not all_succeeded:
        sys.exit(Exit.TASK_FAILED)


@task.command("cancel")
@click.argument("task_id", shell_complete=completed_tasks_that_go_on)
@client_command
def cancel_task(profile: str | None, task_id: str, *, as_json: bool) -> None:
    """Cancel a task; a running attempt is killed."""

    async def cancel(client: Any) -> str:
        whole: str = await client.lookups.task_id(task_id)
        await client.cancel_task(whole)
        return whole

    task_id = run_client(profile, cancel)
    print_done(
        {"task_id": task_id, "state": "TASK_STATE_CANCELLED"}, f"{task_id} is cancelled", as_json
    )


def _print_ended(ended: Any, *, as_json: bool) -> None:
    status = ended.status
    if as_json:
        print_json(json_document(ended))
    elif status.failure is not None and status.result is None:  # Otherwise an earlier attempt's.
        why = f"{status.failure.message} [{status.failure.reason}]"
        say(f"error: the task failed: {why}", err=True)
        _say_output(status.failure, err=True)
    elif status.result is None:
        say(f"error: the task is {status.state}", err=True)
    else:
        _print_result(ended)
    if status.state != "succeeded":
        sys.exit(Exit.TASK_FAILED)


def _say_output(failure: Any, *, err: bool = False) -> None:
    """Print the end of a failed attempt's output, line by line."""
    if failure.output_tail:
        lines = failure.output_tail.removesuffix("\n").split("\n")
        say("the end of its output:", *(f"  {line}" for line in lines), err=err)


def _print_result(ended: Any, *, as_text: bool = False) -> None:
    """Print a result: that of a SQL task as a table, if the rows came with it."""
    from ipfs_cluster_node.cli.sql_rows import ResultFile, print_rows

    result = ended.status.result
    rows = ResultFile.of(ended)
    if rows is None:
        print_result(result.data, as_text=as_text)
        if result.cid:
            say(f"{result.size_bytes} bytes in {result.cid}", err=True)
    elif rows.is_inline:
        print_rows(rows, as_json=False, saves=f"`content get {result.cid} -o FILE`")
    else:
        say(f"{rows.row_count} rows in {result.cid} ({result.size_bytes} bytes)")
        hint(f"to save them: {command_line('content', 'get', result.cid, '-o', 'out.parquet')}")
