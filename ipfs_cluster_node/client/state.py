"""The state as tables: whole, or watched."""

import asyncio
import random
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Final, cast

import grpc

from ipfs_cluster_node.adapters.net.channels import Target
from ipfs_cluster_node.client.calls import TIMEOUT_DEFAULT, Calls
from ipfs_cluster_node.client.connection import (
    RETRY_DELAY_MAX_SECONDS,
    RETRY_DELAY_MIN_SECONDS,
)
from ipfs_cluster_node.client.values import checked_text, milliseconds, needs, seconds, texts
from ipfs_cluster_node.codec.errors import error_from_rpc, is_being_cancelled
from ipfs_cluster_node.core.errors import ClusterError, Reason, Trait, invalid_field
from ipfs_cluster_node.core.schemas import STATE_TABLES
from ipfs_cluster_node.core.state_events import (
    Bookmark,
    Reset,
    ResetCause,
    StateEvent,
    WatchedTable,
)
from ipfs_cluster_node.v1 import state_delta_pb2
from ipfs_cluster_node.v1.state_delta_pb2_grpc import StateDeltaServiceStub

WATCH_CALL_SECONDS: Final = 3600.0
"""One call of a watch; another one goes on where it ended."""
SILENCE_SECONDS: Final = 5.0
"""A master that is silent for so long beyond the time of a bookmark is given up."""
INTERVAL_DEFAULT: Final = timedelta(seconds=2)


class StateCalls(Calls):
    """Reads of the state as a whole."""

    async def get_snapshot(self, table: str, *, timeout: timedelta = timedelta(minutes=5)) -> Any:
        """Fetch a table of the state, such as `nodes`; see `STATE_TABLES`, as a `pyarrow.Table`.

        Raises:
            ClusterError: INVALID_ARGUMENT for another table; CONFIG_INVALID, if pyarrow is not
                installed.
        """
        _check_table(table)
        needs("pyarrow")
        from ipfs_cluster_node.codec.arrow_tables import SnapshotReader  # Heavy.

        number = state_delta_pb2.StateTable.Value(f"STATE_TABLE_{table.upper()}")

        async def receive(channel: grpc.aio.Channel, seconds: float) -> Any:
            reader = SnapshotReader()
            request = state_delta_pb2.GetSnapshotRequest(table=number)
            call = StateDeltaServiceStub(channel).GetSnapshot(
                request, timeout=seconds, metadata=self._connection.metadata
            )
            async for frame in call:
                reader.feed(frame)
            return reader.table()

        return await self._connection.following(receive, timeout=seconds(timeout))

    async def watch_state(
        self,
        tables: str | Iterable[str],
        *,
        columns: Iterable[str] = (),
        key_prefix: str = "",
        resume_token: bytes = b"",
        bookmark_interval: timedelta = INTERVAL_DEFAULT,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> AsyncGenerator[StateEvent, None]:
        """Yield tables of the state, and then their changes, for ever.

        Events come in batches that a `Bookmark` ends: then the tables equal the state at its
        revision, of what the caller may read. `WatchedState` makes tables of them. When a master
        fails, the watch goes on at another one, and nothing that was yielded comes to be wrong.

        Args:
            tables: One table or several, of `STATE_TABLES`.
            columns: Only these, besides those of the row key; default: all. For one table.
            key_prefix: Only rows whose first key column begins so. For one table.
            resume_token: Of a bookmark of an earlier watch of the same: goes on after it.
            bookmark_interval: At most so long passes between two bookmarks; 0.1 s to 60 s.
            timeout: How long it is tried to reach a master that answers.

        Raises:
            ClusterError: INVALID_ARGUMENT; NOT_DELEGATED; CONFIG_INVALID, if pyarrow is not
                installed; and why no master answered.
        """
        names = [tables] if isinstance(tables, str) else texts(tables, "tables")
        for name in names:
            _check_table(name)
        shown = tuple(texts(columns, "columns"))
        checked_text(key_prefix, "key_prefix")
        if not isinstance(resume_token, bytes):
            raise invalid_field("resume_token", "give the bytes of a bookmark's")
        watched = [WatchedTable(name, shown, key_prefix) for name in names]
        interval_ms = milliseconds(bookmark_interval, "bookmark_interval")
        needs("pyarrow")
        loop = asyncio.get_running_loop()
        masters = _Rotation(self._connection.targets)
        heard, delay = loop.time(), RETRY_DELAY_MIN_SECONDS
        denied_by: set[Target] = set()
        revision = 0
        while True:
            batches = self._batches(masters.current, watched, resume_token, interval_ms)
            try:
                async with aclosing(batches):
                    async for batch in batches:
                        delay = RETRY_DELAY_MIN_SECONDS
                        denied_by.clear()
                        self._note_answer()
                        revision = _revision_after(batch, revision)
                        for event in batch:
                            yield event
                        resume_token = batch[-1].resume_token
                        heard = loop.time()  # Now: the caller may have taken its time.
            except ClusterError as error:
                if not error.reason.has(Trait.RETRYABLE | Trait.MASTER_LOCAL):
                    # One master may not know of the newest delegations yet.
                    denied_by.add(masters.current)
                    known = set(self._connection.targets)
                    if not error.reason.has(Trait.DENIED) or denied_by >= known:
                        raise
                if loop.time() - heard > seconds(timeout):
                    raise
            if masters.next(self._connection.targets):
                await asyncio.sleep(delay * (0.5 + random.random()))  # noqa: S311
                delay = min(2 * delay, RETRY_DELAY_MAX_SECONDS)

    async def _batches(
        self,
        master: Target,
        watched: Sequence[WatchedTable],
        resume_token: bytes,
        interval_ms: int,
    ) -> Any:
        """The batches of events that one master sends, each whole; ends with its call."""
        from ipfs_cluster_node.codec.state_watch import WatchReader, request_of  # Heavy.

        call = StateDeltaServiceStub(self._connection.channel(master)).Watch(
            request_of(watched, resume_token, interval_ms),
            timeout=WATCH_CALL_SECONDS,
            metadata=self._connection.metadata,
        )
        reader, batch = WatchReader(), list[StateEvent]()
        try:
            while True:
                async with asyncio.timeout(interval_ms / 1000 + SILENCE_SECONDS):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    return
                event = reader.decode(cast("state_delta_pb2.WatchResponse", message))
                if event is not None:
                    batch.append(event)
                if isinstance(event, Bookmark):
                    yield batch
                    batch = []
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        except TimeoutError as error:
            raise ClusterError(
                Reason.DEADLINE_EXCEEDED, f"nothing came from {master[0]} for too long"
            ) from error
        except (asyncio.CancelledError, asyncio.InvalidStateError) as error:
            if is_being_cancelled():
                raise
            raise ClusterError(Reason.UNREACHABLE, "the connection broke") from error
        finally:
            call.cancel()


def _revision_after(batch: Sequence[StateEvent], revision: int) -> int:
    """The revision of a batch's bookmark; raises BLOCK_MISMATCH, if it is one that came before."""
    mark = batch[-1]
    assert isinstance(mark, Bookmark)
    lost = any(isinstance(e, Reset) and e.cause is ResetCause.OTHER_CLUSTER for e in batch)
    if mark.revision < revision and not lost:
        raise ClusterError(
            Reason.BLOCK_MISMATCH,
            f"a master answered with revision {mark.revision} after {revision}; watch again, "
            "without a resume token",
        )
    return mark.revision


class _Rotation:
    """The masters in turn, from any of them on: each answers watches."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.current = random.choice(targets)  # noqa: S311
        self._tried = 0

    def next(self, targets: Sequence[Target]) -> bool:
        """Go to the next master; returns whether all were tried since this was last true."""
        at = targets.index(self.current) if self.current in targets else -1
        self.current = targets[(at + 1) % len(targets)]
        self._tried = (self._tried + 1) % len(targets)
        return self._tried == 0


def _check_table(table: str) -> None:
    if table not in STATE_TABLES:
        raise invalid_field(
            "table", f"there is no table {table!r:.80}; give one of {', '.join(STATE_TABLES)}"
        )
