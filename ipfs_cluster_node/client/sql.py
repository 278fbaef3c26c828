"""SQL over files, CIDs and tables, on the cluster."""

import asyncio
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from types import MappingProxyType
from typing import Any, BinaryIO, Final

from ipfs_cluster_node.client.content import ContentCalls
from ipfs_cluster_node.client.inputs import Source, add_input, given_inputs
from ipfs_cluster_node.client.submitted import TASK_TIMEOUT_DEFAULT, SubmittedTask, result_of
from ipfs_cluster_node.client.tasks import TaskCalls
from ipfs_cluster_node.client.values import checked_text, needs, seconds, shown
from ipfs_cluster_node.client.verified import verified
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import DEFAULT_NAMESPACE
from ipfs_cluster_node.core.sql import SQL_TASK_TYPE, sql_payload, unused_names

NO_INPUTS: Final[Mapping[str, Source]] = MappingProxyType({})
CANCEL_TIMEOUT: Final = timedelta(seconds=3)


class SqlCalls(ContentCalls, TaskCalls):
    """SQL, from the operations on content and tasks."""

    async def sql(
        self,
        query: str,
        inputs: Mapping[str, Source] = NO_INPUTS,
        /,
        *,
        parameters: Mapping[str, Any] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        attempt_timeout: timedelta | None = None,
        task_timeout: timedelta | None = None,
        timeout: timedelta = TASK_TIMEOUT_DEFAULT,
        **tables: Source,
    ) -> Any:
        """Run one SELECT on a worker; returns the rows as a `pyarrow.Table`.

        A call that is cancelled or interrupted cancels its task. After `timeout` the task goes on;
        `task_id` in the error's metadata names it.

        Args:
            query: DuckDB's SQL; it sees its inputs and nothing else.
            inputs: Tables by name, if a name is no keyword of Python or one of those below.
            parameters: Values of the query's `$name`s: numbers, text, booleans, None, or lists of
                one kind of these; each exact or refused.
            namespace: The namespace of the task and of the files that are added for it, for
                permissions.
            attempt_timeout: Time limit of one attempt; default 10 minutes.
            task_timeout: Time limit of the task, waiting included, after which it fails with
                TASK_TIMED_OUT; default 7 days.
            timeout: How long its end is waited for, without the transfers of inputs and result.
            tables: Tables by name: a path, a CID, or a table of pyarrow, Polars or pandas. Files
                are CSV, JSON, Parquet or Arrow, and are added to the cluster's content.

        Raises:
            TaskFailedError: SQL_FAILED, with the database's words; TASK_INPUT_INVALID.
            ClusterError: INVALID_ARGUMENT for a wrong name, a file that is not there or a table
                that the query does not name; CONFIG_INVALID without pyarrow; DEADLINE_EXCEEDED.
        """
        needs("pyarrow", by="sql")
        if not isinstance(inputs, Mapping):
            raise ClusterError(
                Reason.INVALID_ARGUMENT,
                f"the inputs are {shown(inputs)}; name each: sql(query, t=...)",
            )
        given = given_inputs([*inputs.items(), *tables.items()])
        check_all_used(query, [each.name for each in given])
        if not isinstance(parameters or {}, Mapping):
            raise ClusterError(
                Reason.INVALID_ARGUMENT,
                f"the parameters are {shown(parameters)}; give values by name, as a dict",
            )
        seconds(timeout)
        named = [await add_input(self, each, namespace=namespace) for each in given]
        task = await self.submit_task(
            SQL_TASK_TYPE,
            sql_payload(query, parameters),
            inputs=named,
            attempt_timeout=attempt_timeout,
            task_timeout=task_timeout,
            namespace=namespace,
        )
        result = result_of(await self._waited(task, timeout))
        with tempfile.TemporaryFile() as file:
            async for data in verified(result.cid, self.get_content(result.cid)):
                await asyncio.to_thread(file.write, data)
            return await asyncio.to_thread(_read, file)

    async def _waited(self, task: SubmittedTask, timeout: timedelta) -> Any:
        try:
            return await task.wait(timeout=timeout)
        except asyncio.CancelledError:
            with suppress(ClusterError):  # It has ended, or nobody can be told.
                await self.cancel_task(str(task), timeout=CANCEL_TIMEOUT)
            raise
        except ClusterError as error:
            raise ClusterError(
                error.reason,
                f"{error.message} (task {task})",
                metadata={**error.metadata, "task_id": str(task)},
            ) from error


def check_all_used(query: str, names: list[str]) -> None:
    """Check that a query names each of its tables.

    Raises:
        ClusterError: INVALID_ARGUMENT.
    """
    unused = unused_names(checked_text(query, "query"), names)
    if unused:
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"the SQL does not name {', '.join(unused)}; write FROM {unused[0]}, or leave it out",
        )


def _read(file: BinaryIO) -> Any:
    import pyarrow.parquet as pq

    file.seek(0)
    return pq.read_table(file)
