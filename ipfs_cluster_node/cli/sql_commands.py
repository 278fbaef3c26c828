"""`sql`: a SELECT over local files and content, run by a worker."""

from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from ipfs_cluster_node.cli.files import force_option, user_file, write_aside
from ipfs_cluster_node.cli.output import (
    DURATION,
    WAIT,
    client_command,
    fail,
    hint,
    print_done,
    progress_bar,
    run_client,
)
from ipfs_cluster_node.cli.parameters import parameter_option
from ipfs_cluster_node.cli.waiting import (
    continuing,
    saying_what_continues,
    saying_why_it_waits,
    wait_shown,
)
from ipfs_cluster_node.core.errors import Exit


@click.command()
@click.argument("query")
@click.argument("inputs", metavar="[NAME=FILE|NAME=CID]...", nargs=-1)
@parameter_option
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the rows to this file: .parquet, .csv, .json or .arrow.",
)
@force_option
@click.option(
    "--namespace",
    default="default",
    help="The task's namespace, such as team-a/nightly. [default: default]",
)
@click.option("--attempt-timeout", type=DURATION, help="Time limit of one attempt. [default: 10m]")
@click.option(
    "--task-timeout",
    type=DURATION,
    help="Time limit from submission to the end, waiting included. [default: 7d]",
)
@click.option(
    "--timeout",
    type=WAIT,
    default="1h",
    show_default=True,
    help="How long to wait; the task continues.",
)
@client_command
def sql(
    profile: str | None,
    *,
    query: str,
    inputs: tuple[str, ...],
    parameters: tuple[tuple[str, Any], ...],
    output: Path | None,
    force: bool,
    namespace: str,
    attempt_timeout: timedelta | None,
    task_timeout: timedelta | None,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Run one SELECT over files on a worker, and show or save the rows.

    Each NAME is a table: a local CSV, JSON, Parquet or Arrow file, which is added to the cluster
    first, or the CID of a file that is already there. Append :csv, :parquet or :arrow to name the
    format.

    Example: ipfs-cluster-node sql "SELECT origin, count(*) FROM t GROUP BY origin" t=weather.csv
    -o out.parquet
    """
    from ipfs_cluster_node.cli.given_inputs import add_inputs, parse_inputs
    from ipfs_cluster_node.cli.sql_rows import ResultFile, check_form, print_rows
    from ipfs_cluster_node.client.sql import check_all_used
    from ipfs_cluster_node.client.submitted import TaskFailedError, result_of
    from ipfs_cluster_node.core.sql import SQL_TASK_TYPE, sql_payload

    if output is not None:
        check_form(output)
    given = parse_inputs(inputs)
    check_all_used(query, [each.name for each in given])

    async def run(client: Any) -> Any:
        named = await add_inputs(client, given, namespace=namespace)
        async with saying_why_it_waits(client):
            task_id = await client.submit_task(
                SQL_TASK_TYPE,
                sql_payload(query, dict(parameters)),
                inputs=named,
                attempt_timeout=attempt_timeout,
                task_timeout=task_timeout,
                namespace=namespace,
            )
        hint(f"task {task_id}")
        lines[:] = continuing(profile, task_id)
        ended = await wait_shown(client, task_id, timeout)
        result = result_of(ended)
        lines[:] = [f"the task has ended; its rows are {result.cid}, for `content get`"]
        rows = ResultFile(ended)
        if target is not None and output is not None and output.suffix == ".parquet":
            await fetch(client, result, target)
        elif target is not None or not (rows.is_inline or rows.is_unreadable):
            await fetch(client, result, closing.enter_context(rows.opened()))
        return rows

    async def fetch(client: Any, result: Any, file: Any) -> None:
        from ipfs_cluster_node.client.verified import verified

        done = 0
        with progress_bar("get", result.size_bytes) as on_progress:
            async with saying_why_it_waits(client):
                async for data in verified(result.cid, client.get_content(result.cid)):
                    await write_aside(file, data)
                    done += len(data)
                    on_progress(done)

    with ExitStack() as closing:
        target = None
        if output is not None:
            target = closing.enter_context(user_file(output, force=force))
        try:
            with saying_what_continues() as lines:
                rows = run_client(profile, run)
                if target is not None and output is not None:
                    rows.write(target, output.suffix)
                else:
                    print_rows(rows, as_json=as_json)
        except TaskFailedError as error:
            fail(error, Exit.TASK_FAILED)
    if output is not None:
        print_done(
            rows.document | {"path": str(output)}, f"{rows.row_count} rows in {output}", as_json
        )
