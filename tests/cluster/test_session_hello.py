"""How worker and leader agree on a protocol, and what a message of a newer worker does."""

import asyncio
from typing import Any

import pytest

from ipfs_cluster_node import __version__
from ipfs_cluster_node.codec.sessions import (
    FEATURES_MAX,
    SDK_CHARS_MAX,
    SDK_NAME,
    VERSIONS_MAX,
    hello_to_proto,
)
from ipfs_cluster_node.codec.tasks import attempt_to_proto
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import TaskState
from ipfs_cluster_node.core.session_protocol import PROTOCOL_VERSIONS
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb
from tests.support.dispatch import MemoryCall, attempt, until
from tests.support.sessions import ScriptedWorker, leading, result
from tests.support.virtual_time import virtual_time
from tests.support.worlds import WORKER

OF_A_NEWER_PEER = b"\xd2\x3e\x03new"
"""Field 1002, which this release has not."""


@virtual_time
async def test_the_leader_answers_with_the_version_that_holds_and_what_it_is() -> None:
    async with leading() as its:
        call = MemoryCall(lambda requests: its.sessions.worker_session(WORKER, requests))
        hello = hello_to_proto((), 0)
        hello.protocol_versions[:] = [7, *PROTOCOL_VERSIONS, 9]
        hello.features.append(12345)  # type: ignore[arg-type]
        await call.write(pb.WorkerSessionRequest(hello=hello))
        welcome = (await call.read()).welcome
        assert welcome.protocol_version == max(PROTOCOL_VERSIONS)
        assert (welcome.sdk.name, welcome.sdk.version) == (SDK_NAME, __version__)
        call.cancel()


@virtual_time
async def test_a_worker_whose_versions_do_not_fit_is_told_so() -> None:
    async with leading() as its:
        for versions in ([], [99]):
            worker = ScriptedWorker(its.sessions, WORKER)
            hello = pb.WorkerHello(protocol_versions=versions)
            await worker.say(hello=hello)
            while worker.ended is None:
                await asyncio.sleep(0.01)
            assert worker.ended.reason is Reason.PROTOCOL_UNSUPPORTED
            assert "version 1" in worker.ended.message
        # Another is served, and the refused ones took nobody's place.
        its.submit(1)
        other = await its.worker(credit=1)
        await until(lambda: bool(other.assigned))


@virtual_time
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("hello.protocol_versions", {"protocol_versions": [1] * (VERSIONS_MAX + 1)}),
        ("hello.features", {"features": [0] * (FEATURES_MAX + 1)}),
        ("hello.sdk.name", {"sdk": pb.Sdk(name="n" * (SDK_CHARS_MAX + 1))}),
        ("hello.sdk.version", {"sdk": pb.Sdk(name="n", version="1\n2")}),
    ],
)
async def test_an_introduction_is_bounded_and_fits_in_a_log(
    field: str, change: dict[str, Any]
) -> None:
    async with leading() as its:
        worker = ScriptedWorker(its.sessions, WORKER)
        await worker.say(hello=pb.WorkerHello(**{"protocol_versions": [1], **change}))
        await until(lambda: worker.ended is not None)
        assert worker.ended is not None
        assert worker.ended.reason is Reason.INVALID_ARGUMENT
        assert field in str(worker.ended)


@virtual_time
async def test_a_message_of_a_newer_worker_is_ignored_and_the_session_goes_on() -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        newer = pb.WorkerSessionRequest.FromString(OF_A_NEWER_PEER)
        assert newer.WhichOneof("message") is None
        await worker.call.write(newer)
        await until(lambda: bool(worker.assigned))
        await worker.call.write(newer)
        await worker.tell(result(1))
        await until(lambda: worker.confirmed == [attempt(1)])
        assert its.task(1).state is TaskState.SUCCEEDED


@virtual_time
async def test_an_outcome_of_a_newer_worker_fails_its_attempt_which_is_tried_again() -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        newer = pb.AttemptOutcome.FromString(OF_A_NEWER_PEER)
        newer.id.CopyFrom(attempt_to_proto(attempt(1)))
        await worker.tell(newer)
        await until(lambda: worker.confirmed == [attempt(1)])
        assert its.task(1).state is TaskState.PENDING
