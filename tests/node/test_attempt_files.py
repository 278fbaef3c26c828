"""Files of an attempt: inputs from the masters, results to the leader. Masters are real servers."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from ipfs_cluster_node.access.context import Caller, CallerClass
from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.adapters.worker.pool import (
    Attempt,
    AttemptSucceeded,
)
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.codec.enums import FILE_FORMAT
from ipfs_cluster_node.codec.metadata import ATTEMPT_KEY
from ipfs_cluster_node.codec.tasks import attempt_text
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.model import (
    RESULT_INLINE_BYTES_MAX,
    AttemptId,
    AttemptOutcome,
)
from ipfs_cluster_node.core.multiformats import Cid, parse_cid_binary
from ipfs_cluster_node.node.attempts import AttemptRunner
from ipfs_cluster_node.services.gate import Gate
from ipfs_cluster_node.tasks import TaskInputFile
from ipfs_cluster_node.v1 import content_pb2 as pb
from ipfs_cluster_node.v1 import content_pb2_grpc, task_dispatch_pb2
from tests.support.calls import Anything
from tests.support.content import build, content, fill
from tests.support.tls import enrol, make_ca, serving
from tests.support.virtual_time import loop_clock

WHICH = AttemptId(TaskId("t"), 3)
ROOT, BLOCKS = build(content(1000))
LEAVES = [cid for cid in BLOCKS if cid.codec == 0x55]
CALLER = Caller(enrol(make_ca()).identity.did, CallerClass.NODE)


class Master(content_pb2_grpc.ContentServiceServicer):
    """Holds these blocks, and notes what it is asked and for which attempt."""

    def __init__(self, blocks: dict[Cid, bytes]) -> None:
        self.blocks = blocks
        self.asked: list[list[Cid]] = []
        self.calls: list[tuple[str, str]] = []
        """Each call, and the attempt that it was for."""
        self.holders: list[pb.ContentHolder] = []
        self.refuses: ClusterError | None = None
        self.added = b""

    def _note(self, name: str, context: Any) -> None:
        self.calls.append((name, dict(context.invocation_metadata()).get(ATTEMPT_KEY, "")))

    async def StatContent(
        self, request: pb.StatContentRequest, context: Any
    ) -> pb.StatContentResponse:
        self._note("stat", context)
        if self.refuses is not None:
            raise self.refuses
        return pb.StatContentResponse(content=pb.Content(cid=request.cid, holders=self.holders))

    async def GetBlocks(
        self, request: pb.GetBlocksRequest, context: Any
    ) -> AsyncIterator[pb.GetBlocksResponse]:
        self._note("blocks", context)
        wanted = [parse_cid_binary(cid) for cid in request.cids]
        assert request.root == ROOT.binary
        self.asked.append(wanted)
        for cid in wanted:
            if cid not in self.blocks:
                raise ClusterError(Reason.CONTENT_NOT_FOUND, "not here")
            yield pb.GetBlocksResponse(cid=cid.binary, data=self.blocks[cid])

    async def AddContent(
        self, request_iterator: AsyncIterator[pb.AddContentRequest], context: Any
    ) -> pb.AddContentResponse:
        self._note("add", context)
        if self.refuses is not None:
            raise self.refuses
        async for request in request_iterator:
            self.added += request.data
        return pb.AddContentResponse(cid=str(ROOT), size_bytes=len(self.added))


class ToMasters(Connection):
    """Follows the leader over channels that are open."""

    def __init__(self, channels: dict[NodeId, grpc.aio.Channel]) -> None:
        targets = [(f"{node_id}:1", node_id) for node_id in channels]
        super().__init__([*targets, ("unnamed:1", None)], None)
        self._open = channels

    def channel(self, target: Any) -> grpc.aio.Channel:
        return self._open[target[1] or NodeId("m1")]


class Pool:
    """Lends a handler of the test's."""

    def __init__(self, scratch: Path, handler: Callable[[Attempt], Any]) -> None:
        self.scratch, self.handler = scratch, handler

    @asynccontextmanager
    async def lease(self, _task_type: str) -> AsyncIterator[Any]:
        async def run(attempt: Attempt) -> Any:
            return self.handler(attempt)

        directory = os.open(self.scratch, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield SimpleNamespace(run=run, directory=directory, scratch=self.scratch)
        finally:
            os.close(directory)


class Worker:
    """What runs attempts, between masters and a handler of the test's."""

    def __init__(self, directory: Path) -> None:
        self.store = BlockStore(directory / "blocks")
        self.scratch = directory / "scratch"
        self.scratch.mkdir()
        self.masters = {NodeId(n): Master(dict(BLOCKS)) for n in ("m1", "m2", "m3")}  # type: ignore[abstract]
        self.leader, _, self.third = self.masters.values()
        self.handed: list[Attempt] = []
        self.answer: Any = AttemptSucceeded(data=b"done", content_type="text/x", file=None)
        self.read: dict[str, bytes] = {}
        """What the handler found in its inputs."""

    def handle(self, attempt: Attempt) -> Any:
        self.handed.append(attempt)
        self.read = {name: given.path.read_bytes() for name, given in attempt.inputs.items()}
        return self.answer

    async def run(self, *inputs: tuple[str, str]) -> AttemptOutcome:
        spec = task_dispatch_pb2.TaskSpec(task_type="x", payload=b"payload", content_type="text/in")
        for name, file_format in inputs:
            spec.inputs.add(
                name=name, cid=str(ROOT), format=FILE_FORMAT.number(file_format, "format")
            )
        spec.attempt_timeout.FromSeconds(60)
        async with AsyncExitStack() as opened:
            channels = {}
            for node_id, master in self.masters.items():
                gate = Gate(lambda _context: CALLER, Anything(), clock=loop_clock())
                gate.serve(master)
                channels[node_id] = await opened.enter_async_context(serving(gate))
            runner = AttemptRunner(
                uplink=SimpleNamespace(connection=ToMasters(channels)),  # type: ignore[arg-type]
                pool=Pool(self.scratch, self.handle),  # type: ignore[arg-type]
                contents=SimpleNamespace(store=self.store),  # type: ignore[arg-type]
                channel_to=channels.get,
                has_room=lambda: True,
                clock=loop_clock(),
            )
            return await runner.run(WHICH, spec)

    def damage(self, cids: Sequence[Cid]) -> None:
        for cid in cids:
            [path] = self.store._directory.glob(f"??/{cid}")
            path.write_bytes(b"damaged")

    def calls(self, name: str) -> list[list[tuple[str, str]]]:
        return [[c for c in master.calls if c[0] == name] for master in self.masters.values()]


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


# Inputs.


@pytest.mark.asyncio
async def test_inputs_come_from_a_master_that_holds_them_and_for_this_attempt(
    worker: Worker,
) -> None:
    worker.leader.holders = [
        pb.ContentHolder(node_id="m1"),  # Of whom no address is known.
        pb.ContentHolder(node_id="m3", endpoints=["m3:1"]),
    ]
    outcome = await worker.run(("a", "csv"), ("b", "parquet"))
    assert outcome.result is not None
    assert worker.read == {"a": content(1000), "b": content(1000)}
    [handed] = worker.handed
    assert handed.inputs == {
        "a": TaskInputFile(path=worker.scratch / "input-0", cid=str(ROOT), format="csv"),
        "b": TaskInputFile(path=worker.scratch / "input-1", cid=str(ROOT), format="parquet"),
    }
    assert (handed.task_id, handed.attempt, handed.task_type) == (WHICH.task_id, 3, "x")
    assert (handed.payload, handed.content_type) == (b"payload", "text/in")
    assert [bool(calls) for calls in worker.calls("blocks")] == [False, False, True]
    # Each block once: the second input was here by then.
    assert sorted(cid.binary for each in worker.third.asked for cid in each) == sorted(
        cid.binary for cid in BLOCKS
    )
    said = {attempt for m in worker.masters.values() for _, attempt in m.calls}
    assert said == {attempt_text(WHICH)}


@pytest.mark.asyncio
async def test_an_input_with_several_damaged_blocks_is_whole_before_the_handler_has_it(
    worker: Worker,
) -> None:
    fill(worker.store, BLOCKS)
    worker.damage(LEAVES[3:6])
    outcome = await worker.run(("a", "parquet"))
    assert outcome.result is not None
    assert worker.read == {"a": content(1000)}
    assert {cid for each in worker.leader.asked for cid in each} == set(LEAVES[3:6])
    assert worker.store.damaged_count == 0


@pytest.mark.asyncio
async def test_an_input_that_nobody_has_is_final_and_names_who_was_asked(worker: Worker) -> None:
    for master in worker.masters.values():
        master.blocks.clear()
    outcome = await worker.run(("a", "parquet"))
    assert outcome.failure is not None
    assert outcome.failure.reason is Reason.CONTENT_NOT_FOUND
    assert "m1, m2, m3" in outcome.failure.message
    assert not outcome.retryable
    assert worker.handed == []


@pytest.mark.asyncio
async def test_what_else_the_leader_says_of_an_input_ends_the_attempt(worker: Worker) -> None:
    fill(worker.store, BLOCKS)  # Even where all of it is here: an attempt may be another's by now.
    worker.leader.refuses = ClusterError(Reason.STALE_ATTEMPT, "another has it now")
    outcome = await worker.run(("a", "parquet"))
    assert outcome.failure is not None
    assert outcome.failure.reason is Reason.STALE_ATTEMPT
    assert outcome.retryable
    assert worker.calls("blocks") == [[], [], []]


# Results.


@pytest.mark.asyncio
@pytest.mark.parametrize("over", [0, 1])
async def test_a_result_that_is_too_long_for_the_log_becomes_a_file(
    worker: Worker, over: int
) -> None:
    data = content(RESULT_INLINE_BYTES_MAX + over)
    worker.answer = AttemptSucceeded(data=data, content_type="text/x", file=None)
    result = (await worker.run()).result
    assert result is not None
    assert (result.content_type, result.size_bytes) == ("text/x", len(data))
    assert (result.data, result.cid) == ((b"", str(ROOT)) if over else (data, ""))
    assert worker.leader.added == (data if over else b"")
    assert worker.calls("add") == [[("add", attempt_text(WHICH))] * over, [], []]
    assert list(worker.scratch.iterdir()) == []


@pytest.mark.asyncio
async def test_a_result_that_was_not_stored_is_no_success(worker: Worker) -> None:
    for master in worker.masters.values():
        master.refuses = ClusterError(Reason.STORAGE_FULL, "full")
    data = content(RESULT_INLINE_BYTES_MAX + 1)
    worker.answer = AttemptSucceeded(data=data, content_type="", file=None)
    outcome = await worker.run()
    assert outcome.result is None
    assert outcome.failure is not None
    assert outcome.failure.reason is Reason.STORAGE_FULL
    assert outcome.retryable
