"""A watch of the state over several masters, which fail, deny and are not to be trusted."""

import asyncio
import random
from contextlib import aclosing
from datetime import timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from ipfs_cluster_node.cli.capture import CapturingConnection
from ipfs_cluster_node.client import state as client_state
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.connection import RETRY_DELAY_MAX_SECONDS
from ipfs_cluster_node.client.state import SILENCE_SECONDS
from ipfs_cluster_node.client.watched_state import WatchedState
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.state_events import (
    Bookmark,
    Reset,
    ResetCause,
    StateEvent,
    WatchedTable,
)
from ipfs_cluster_node.v1 import state_delta_pb2 as pb
from tests.support.virtual_time import monotonic, virtual_time


async def revisions_of(monkeypatch: pytest.MonkeyPatch, *batches: list[StateEvent]) -> list[int]:
    async def answered(*_args: Any) -> Any:
        for batch in batches:
            yield batch
        raise ClusterError(Reason.NOT_DELEGATED, "the end")

    connection = CapturingConnection()
    connection.learn([("master:1", None)])
    client = Client(connection)
    monkeypatch.setattr(client, "_batches", answered)
    monkeypatch.setattr(client, "_note_answer", lambda: None)  # It would call the masters.
    events = list[StateEvent]()
    with pytest.raises(ClusterError) as ended:
        async for event in client.watch_state("config"):
            events.append(event)
    seen = [event.revision for event in events if isinstance(event, Bookmark)]
    assert ended.value.reason in (Reason.NOT_DELEGATED, Reason.BLOCK_MISMATCH)
    return [*seen, -1] if ended.value.reason is Reason.BLOCK_MISMATCH else seen


def mark(revision: int) -> Bookmark:
    return Bookmark(revision, b"token", 0)


@pytest.mark.asyncio
async def test_revisions_only_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await revisions_of(monkeypatch, [mark(5)], [mark(5)], [mark(7)]) == [5, 5, 7]
    assert await revisions_of(monkeypatch, [mark(5)], [mark(4)], [mark(6)]) == [5, -1]
    compacted = Reset(ResetCause.COMPACTED, 0)
    assert await revisions_of(monkeypatch, [mark(5)], [compacted, mark(4)]) == [5, -1]
    other = Reset(ResetCause.OTHER_CLUSTER, 0)
    assert await revisions_of(monkeypatch, [mark(5)], [other, mark(4)]) == [5, 4]


def test_tables_go_back_to_an_earlier_revision_only_in_another_cluster() -> None:
    state = WatchedState()
    assert state.apply(mark(5))
    for event in (Reset(ResetCause.COMPACTED, 0), Reset(ResetCause.RIGHTS_CHANGED, 0)):
        assert not state.apply(event)
        with pytest.raises(ValueError, match="revision 4 came after 5"):
            state.apply(mark(4))
    state.apply(Reset(ResetCause.OTHER_CLUSTER, 0))
    assert state.apply(mark(4))
    assert state.revision == 4


BROKE, DENIED, END = Reason.UNREACHABLE, Reason.NOT_DELEGATED, Reason.INVALID_ARGUMENT


class Masters:
    """Masters, each of which answers call after call as it is told; the last answer repeats."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        **answers: list[tuple[list[int], Reason | None]],
    ) -> None:
        monkeypatch.setattr(random, "choice", lambda targets: targets[0])
        self._answers = answers
        self.called: list[tuple[str, bytes, float]] = []
        """Which master was called with which resume token, and when."""
        connection = CapturingConnection()
        connection.learn([(name, None) for name in answers])
        self.client = Client(connection)
        self.noted = 0
        monkeypatch.setattr(self.client, "_batches", self._batches)
        monkeypatch.setattr(self.client, "_note_answer", self._note)

    def _note(self) -> None:
        self.noted += 1

    async def _batches(self, master: Any, _watched: Any, token: bytes, _interval_ms: int) -> Any:
        self.called.append((master[0], token, monotonic()))
        answers = self._answers[master[0]]
        revisions, reason = answers.pop(0) if len(answers) > 1 else answers[0]
        for revision in revisions:
            yield [Bookmark(revision, str(revision).encode(), 0)]
        if reason is not None:
            raise ClusterError(reason, "why")

    async def watch(self, *, slow: float = 0.0, timeout: timedelta) -> tuple[list[int], Reason]:
        """The revisions of a watch by a reader that takes so long for each, and why it ended."""
        seen: list[int] = []
        try:
            async for event in self.client.watch_state("config", timeout=timeout):
                assert isinstance(event, Bookmark)
                seen.append(event.revision)
                await asyncio.sleep(slow)
        except ClusterError as error:
            return seen, error.reason
        raise AssertionError("it ended")

    @property
    def order(self) -> list[tuple[str, bytes]]:
        return [(name, token) for name, token, _ in self.called]


HALF_A_MINUTE = timedelta(seconds=30)


@virtual_time
async def test_a_watch_goes_on_at_the_next_master_after_the_last_bookmark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masters = Masters(
        monkeypatch, a=[([4, 5], BROKE), ([8], END)], b=[([], BROKE)], c=[([6], None)]
    )
    assert await masters.watch(timeout=HALF_A_MINUTE) == ([4, 5, 6, 8], END)
    assert masters.order == [("a", b""), ("b", b"5"), ("c", b"5"), ("a", b"6")]
    assert masters.noted == 4


@virtual_time
async def test_a_reader_that_takes_its_time_does_not_end_its_watch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its time was counted as that of masters that do not answer."""
    masters = Masters(monkeypatch, a=[([1], BROKE)], b=[([2], END)])
    seen = await masters.watch(slow=100.0, timeout=HALF_A_MINUTE)
    assert seen == ([1, 2], END)


@virtual_time
async def test_masters_that_do_not_answer_are_asked_less_and_less_until_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masters = Masters(monkeypatch, a=[([1], BROKE), ([], BROKE)], b=[([], BROKE)])
    began = monotonic()
    assert await masters.watch(timeout=HALF_A_MINUTE) == ([1], BROKE)
    took = monotonic() - began
    limit = HALF_A_MINUTE.total_seconds()
    assert limit < took < limit + 2 * RETRY_DELAY_MAX_SECONDS
    # Both at once, and then a pause that grows to a second.
    assert 2 * limit < len(masters.called) < 8 * limit
    times = [at for _, _, at in masters.called]
    assert times[0] == times[1] < times[2]
    assert max(b - a for a, b in pairwise(times)) > 0.5


@virtual_time
async def test_after_an_answer_the_pauses_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    masters = Masters(monkeypatch, a=[*[([], BROKE)] * 12, ([1], BROKE), ([], BROKE), ([2], END)])
    assert await masters.watch(timeout=HALF_A_MINUTE) == ([1, 2], END)
    pauses = [b - a for (_, _, a), (_, _, b) in pairwise(masters.called)]
    assert min(pauses[8:12]) >= RETRY_DELAY_MAX_SECONDS / 2
    assert max(pauses[12:]) < RETRY_DELAY_MAX_SECONDS / 4


@virtual_time
async def test_a_denial_counts_once_every_master_denies_without_an_answer_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masters = Masters(
        monkeypatch, a=[([], DENIED), ([2], BROKE), ([], DENIED)], b=[([1], None), ([], DENIED)]
    )
    # The first denial of `b` comes after answers: `a` may know better.
    assert await masters.watch(timeout=HALF_A_MINUTE) == ([1, 2], DENIED)
    assert [name for name, _ in masters.order] == ["a", "b", "a", "b", "a"]


class Silent:
    """A call that sends some messages, and then nothing; or ends, if `ends`."""

    def __init__(self, *messages: Any, ends: bool = False) -> None:
        self.messages, self.ends, self.cancelled = [*messages], ends, False

    async def read(self) -> Any:
        if self.messages:
            return self.messages.pop(0)
        if self.ends:
            return grpc.aio.EOF
        await asyncio.Event().wait()
        return None

    def cancel(self) -> None:
        self.cancelled = True


def batches_of(call: Silent, monkeypatch: pytest.MonkeyPatch) -> Any:
    stub = SimpleNamespace(Watch=lambda *_, **__: call)
    monkeypatch.setattr(client_state, "StateDeltaServiceStub", lambda _channel: stub)
    connection = CapturingConnection()
    monkeypatch.setattr(connection, "channel", lambda _target: None)
    batches: Any = Client(connection)._batches(("m:1", None), [WatchedTable("config")], b"", 2000)
    return batches


MARK = pb.WatchResponse(bookmark=pb.Bookmark(revision=7, resume_token=b"t"))
RESET = pb.WatchResponse(reset=pb.Reset(cause=pb.Reset.CAUSE_COMPACTED))


@virtual_time
async def test_a_master_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Silent(RESET, MARK, RESET)
    seen: list[list[StateEvent]] = []
    began = monotonic()
    with pytest.raises(ClusterError, match="m:1") as given_up:
        async for batch in batches_of(call, monkeypatch):
            seen.append(batch)  # noqa: PERF401  # As they come.
    assert given_up.value.reason is Reason.DEADLINE_EXCEEDED
    assert monotonic() - began == pytest.approx(2 + SILENCE_SECONDS)
    assert [[type(event) for event in batch] for batch in seen] == [[Reset, Bookmark]]
    assert call.cancelled


@virtual_time
async def test_a_call_ends_with_its_reader_and_drops_what_no_bookmark_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = Silent(MARK)
    async with aclosing(batches_of(call, monkeypatch)) as batches:
        assert len(await anext(batches)) == 1
    assert call.cancelled
    ended = Silent(MARK, RESET, ends=True)
    assert len([batch async for batch in batches_of(ended, monkeypatch)]) == 1
    assert ended.cancelled


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tables", None),
        ("tables", [5]),
        ("columns", "key"),
        ("columns", [5]),
        ("key_prefix", 5),
        ("key_prefix", "\udcff"),
        ("resume_token", "text"),
        ("bookmark_interval", 5),
    ],
)
async def test_a_value_that_can_t_be_is_named(field: str, value: Any) -> None:
    """Some once raised what protobuf says, as a TypeError or another."""
    client = Client(CapturingConnection())
    with pytest.raises(ClusterError, match=field) as refused:
        await anext(client.watch_state(**{"tables": "config", field: value}))
    assert refused.value.reason is Reason.INVALID_ARGUMENT
