"""The client without asyncio: for scripts, threads and notebooks."""

import asyncio
import atexit
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar

from ipfs_cluster_node.client.client import LEARN_SECONDS_MAX, Client
from ipfs_cluster_node.client.submitted import TASK_TIMEOUT_DEFAULT, SubmittedTask
from ipfs_cluster_node.config.profiles import Profile
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.views import ListedTask

CLOSE_SECONDS_MAX: Final = LEARN_SECONDS_MAX + 5.0
"""Longest wait for the client's own calls and the loop's end, after which the thread is left."""
CANCEL_SECONDS_MAX: Final = 5.0
"""Longest wait for an operation to end that was interrupted, so that it cleans up first."""


class _End:
    """Stands after the last item of an iterator."""


END: Final = _End()

Given = ParamSpec("Given")
Answer = TypeVar("Answer")
Item = TypeVar("Item")


class SyncSubmittedTask(str):
    """The id of a task, usable wherever an id is; `result` waits for its end."""

    __slots__ = ("_client", "_task")
    _client: "SyncClient"
    _task: SubmittedTask

    def __new__(cls, task: SubmittedTask, client: "SyncClient") -> Self:
        """Name a task of a client's cluster."""
        made = super().__new__(cls, task)
        made._task, made._client = task, client
        return made

    def wait(self, *, timeout: timedelta = TASK_TIMEOUT_DEFAULT) -> ListedTask:
        """Wait until it has ended; see `SubmittedTask.wait`."""
        return self._client._run(self._task.wait(timeout=timeout))  # noqa: SLF001

    def result(self, *, timeout: timedelta = TASK_TIMEOUT_DEFAULT) -> Any:
        """Wait for its end, and return what the handler returned; see `SubmittedTask.result`."""
        return self._client._run(self._task.result(timeout=timeout))  # noqa: SLF001

    def cancel(self) -> None:
        """Cancel it; see `SubmittedTask.cancel`."""
        self._client._run(self._task.cancel())  # noqa: SLF001


def _blocking(
    function: Callable[Concatenate[Client, Given], Coroutine[Any, Any, Answer]],
) -> "Callable[Concatenate[SyncClient, Given], Answer]":
    @wraps(function)
    def call(self: "SyncClient", /, *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        return self._run(function(self._opened, *args, **kwargs))

    return call


def _submitting_one(
    function: Callable[Concatenate[Client, Given], Coroutine[Any, Any, SubmittedTask]],
) -> "Callable[Concatenate[SyncClient, Given], SyncSubmittedTask]":
    @wraps(function)
    def call(self: "SyncClient", /, *args: Given.args, **kwargs: Given.kwargs) -> SyncSubmittedTask:
        task = self._run(function(self._opened, *args, **kwargs))
        return SyncSubmittedTask(task, self)

    return call


def _submitting(
    function: Callable[Concatenate[Client, Given], Coroutine[Any, Any, list[SubmittedTask]]],
) -> "Callable[Concatenate[SyncClient, Given], list[SyncSubmittedTask]]":
    @wraps(function)
    def call(
        self: "SyncClient", /, *args: Given.args, **kwargs: Given.kwargs
    ) -> list[SyncSubmittedTask]:
        tasks = self._run(function(self._opened, *args, **kwargs))
        return [SyncSubmittedTask(each, self) for each in tasks]

    return call


def _iterating(
    function: Callable[Concatenate[Client, Given], AsyncIterator[Item]],
) -> "Callable[Concatenate[SyncClient, Given], Iterator[Item]]":
    @wraps(function)
    def iterate(self: "SyncClient", /, *args: Given.args, **kwargs: Given.kwargs) -> Iterator[Item]:
        items: Any = function(self._opened, *args, **kwargs)  # A generator, which has `aclose`.

        async def following() -> Item | _End:
            item: Item | _End = await anext(items, END)
            return item

        try:
            while not isinstance(item := self._run(following()), _End):
                yield item
        finally:
            with suppress(ClusterError):  # The client is closed, and so is this.
                self._run(items.aclose())

    return iterate


class SyncClient:
    """One cluster, as one principal: every operation of `Client`, blocking until it is done.

    The operations have the parameters, answers and errors of those of `Client`; iterators are
    ordinary ones. They run in an event loop in a thread of its own, so the caller may have a loop:
    a notebook has. Any thread may call, several at a time. Ctrl-C cancels the operation.

    Close it, or use it as a context manager. Callbacks such as `on_progress` run in the client's
    thread and must not call the client.
    """

    submit_task = _submitting_one(Client.submit_task)
    submit_tasks = _submitting(Client.submit_tasks)
    get_task = _blocking(Client.get_task)
    list_tasks = _blocking(Client.list_tasks)
    watch_tasks = _iterating(Client.watch_tasks)
    wait_tasks = _blocking(Client.wait_tasks)
    cancel_task = _blocking(Client.cancel_task)

    sql = _blocking(Client.sql)

    add_content = _blocking(Client.add_content)
    add_file = _blocking(Client.add_file)
    stat_content = _blocking(Client.stat_content)
    remove_content = _blocking(Client.remove_content)
    keep_content = _blocking(Client.keep_content)
    list_content = _blocking(Client.list_content)
    get_content = _iterating(Client.get_content)

    get_cluster_status = _blocking(Client.get_cluster_status)
    list_nodes = _blocking(Client.list_nodes)
    remove_node = _blocking(Client.remove_node)
    transfer_leadership = _blocking(Client.transfer_leadership)
    create_join_token = _blocking(Client.create_join_token)
    list_join_tokens = _blocking(Client.list_join_tokens)
    revoke_join_token = _blocking(Client.revoke_join_token)
    list_joiners = _blocking(Client.list_joiners)
    decide_joiner = _blocking(Client.decide_joiner)
    get_config = _blocking(Client.get_config)
    propose_config = _blocking(Client.propose_config)
    plan_config = _blocking(Client.plan_config)
    plan_revert = _blocking(Client.plan_revert)
    revert_config = _blocking(Client.revert_config)
    list_config_versions = _blocking(Client.list_config_versions)
    watch_config = _iterating(Client.watch_config)

    get_caller = _blocking(Client.get_caller)
    put_delegation = _blocking(Client.put_delegation)
    list_delegations = _blocking(Client.list_delegations)
    revoke_delegation = _blocking(Client.revoke_delegation)
    explain_access = _blocking(Client.explain_access)
    list_audit_records = _blocking(Client.list_audit_records)

    list_certificates = _blocking(Client.list_certificates)
    revoke_certificate = _blocking(Client.revoke_certificate)
    rotate_certificates = _blocking(Client.rotate_certificates)
    get_rotation = _blocking(Client.get_rotation)

    get_health = _blocking(Client.get_health)
    get_snapshot = _blocking(Client.get_snapshot)
    watch_state = _iterating(Client.watch_state)
    create_backup = _blocking(Client.create_backup)
    copy_backup = _blocking(Client.copy_backup)

    def __init__(self, make: Callable[[], Client]) -> None:
        """Run the client that `make` returns; `from_profile` is what most callers want."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run_loop, name="ipfs-cluster-node-client", daemon=True
        )
        self._operations: set[_Operation[Any]] = set()
        """Those that run; used in the client's thread alone."""
        self._starting = threading.Lock()
        """Held while an operation is handed over, so that none comes after the client's end."""
        self._closed = False
        self._client: Client | None = None
        self._thread.start()

        async def opened() -> Client:
            return await make().__aenter__()

        try:
            self._client = self._run(opened())
        except BaseException:
            self.close()
            raise
        atexit.register(self.close)

    @classmethod
    def from_profile(cls, name: str | None = None, *, stale: bool = False, ucan: str = "") -> Self:
        """Open a profile; see `Client.from_profile`."""
        return cls(lambda: Client.from_profile(name, stale=stale, ucan=ucan))

    @classmethod
    def from_settings(cls, profile: Profile, *, stale: bool = False, ucan: str = "") -> Self:
        """Open a profile; see `Client.from_settings`."""
        return cls(lambda: Client.from_settings(profile, stale=stale, ucan=ucan))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the operations that still run, close every connection and end the thread.

        Returns once that is done. Safe to repeat.
        """
        self._check_thread()
        with self._starting:
            first, self._closed = not self._closed, True
            closing = _Operation(self._close(), self)
            if first:
                self._loop.call_soon_threadsafe(closing.start)
        atexit.unregister(self.close)
        try:
            if first:
                self._wait(closing, CLOSE_SECONDS_MAX)
            else:
                closing.drop()
        finally:
            if first:
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_SECONDS_MAX)

    def task(self, task_id: str) -> "SyncSubmittedTask":
        """A task that was submitted before, by its id; no call is made."""
        return SyncSubmittedTask(self._opened.task(task_id), self)

    @property
    def _opened(self) -> Client:
        assert self._client is not None
        return self._client

    async def _close(self) -> None:
        others = [each for each in self._operations if each.task is not asyncio.current_task()]
        for each in others:
            each.cancel()
        await asyncio.gather(*(each.task for each in others if each.task), return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _check_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise ClusterError(
                Reason.INVALID_ARGUMENT,
                "a callback of an operation may not call the client; call it from another thread",
            )

    def _run(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        """Run an operation in the client's thread; an interrupt cancels it first."""
        operation: _Operation[Answer] = _Operation(coroutine, self)
        try:
            self._check_thread()
            with self._starting:
                if self._closed:
                    raise ClusterError(
                        Reason.INVALID_ARGUMENT, "the client is closed; open another one"
                    )
                self._loop.call_soon_threadsafe(operation.start)
        except BaseException:
            operation.drop()
            raise
        try:
            return self._wait(operation)
        except asyncio.CancelledError as error:
            raise ClusterError(
                Reason.UNKNOWN_OUTCOME,
                "the client was closed before the answer came; open another one, and "
                "check what was done",
            ) from error

    def _wait(self, operation: "_Operation[Answer]", seconds_max: float | None = None) -> Answer:
        try:
            return operation.ended.result(seconds_max)
        except BaseException:
            if not operation.ended.done():  # An interrupt, or the time is over.
                self._loop.call_soon_threadsafe(operation.cancel)
                with suppress(BaseException):
                    operation.ended.result(CANCEL_SECONDS_MAX)
            raise


class _Operation(Generic[Answer]):
    """A coroutine in the client's thread, and its end for the thread that called."""

    def __init__(self, coroutine: Coroutine[Any, Any, Answer], client: SyncClient) -> None:
        self._coroutine = coroutine
        self._all = client._operations  # noqa: SLF001
        self.ended: Future[Answer] = Future()
        self.task: asyncio.Task[None] | None = None

    def drop(self) -> None:
        """Never run it."""
        self._coroutine.close()

    def start(self) -> None:
        self._all.add(self)
        self.task = asyncio.get_running_loop().create_task(self._run())
        self.task.add_done_callback(self._end)

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def _run(self) -> None:
        try:
            answer = await self._coroutine
        except BaseException as error:  # Raised to the caller; here it could end the thread.
            self.ended.set_exception(error)
        else:
            self.ended.set_result(answer)

    def _end(self, _task: asyncio.Task[None]) -> None:
        self._all.discard(self)
        if not self.ended.done():  # Cancelled before its first step.
            self._coroutine.close()
            self.ended.set_exception(asyncio.CancelledError())
