"""Random calls of every method, as a client, as a node and without a certificate's rights.

Only statuses that docs/errors.md names come back; UNKNOWN and INTERNAL would be defects of ours.
"""

import asyncio
import os
import random
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.codec.errors import STATUS_BY_REASON, error_from_rpc
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.services.authorization import RULES_BY_METHOD
from ipfs_cluster_node.services.requests import request_type_of
from tests.fuzz.messages import TEXTS, fill
from tests.support.nodes import until

CALLS = int(os.environ.get("FUZZ_CALLS", "5000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
AT_ONCE = 16
STREAM_MESSAGES = 4
CALL_SECONDS = 2.0
ALLOWED = {status for reason, status in STATUS_BY_REASON.items() if reason is not Reason.INTERNAL}
OF_STRANGERS = {"RemoveNode", "RevokeCertificate"}
"""Never with the ids of the cluster that is tested: a good call would end it."""
OF_NODES = {"RotateCertificates"}
"""Not by the client, whose own certificate would be of an old root then."""
STREAMS_IN = {"AddContent", "PutBlocks", "WorkerSession", "Exchange", "ServerReflectionInfo"}
STREAMS_OUT = {
    *("GetContent", "GetBlocks", "GetSnapshot", "WatchTasks", "Watch"),
    *("WorkerSession", "Exchange", "ServerReflectionInfo"),
}


async def call(channel: Any, method: str, rng: random.Random, texts: tuple[str, ...]) -> str:
    """Make one call; returns its status and reason."""
    name = method.rsplit("/", 1)[1]
    kind: Any = request_type_of(method)
    requests = [
        fill(rng, kind(), texts).SerializeToString()
        for _ in range(rng.randrange(1, STREAM_MESSAGES) if name in STREAMS_IN else 1)
    ]
    shape = ("stream" if name in STREAMS_IN else "unary") + (
        "_stream" if name in STREAMS_OUT else "_unary"
    )
    stub = getattr(channel, shape)(method)
    given: Any = requests[0] if name not in STREAMS_IN else _each(requests)
    try:
        answer = stub(given, timeout=CALL_SECONDS)
        if name in STREAMS_OUT:
            count = 0
            async for _ in answer:
                count += 1
                if count == STREAM_MESSAGES:
                    answer.cancel()
                    break
        else:
            await answer
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {error_from_rpc(error).reason}"
    except asyncio.CancelledError:
        return "CANCELLED by us"
    return "OK"


async def _each(requests: list[bytes]) -> Any:
    for request in requests:
        yield request


@pytest.mark.asyncio
@pytest.mark.timeout(600)
async def test_random_calls_get_documented_answers(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "cluster")
    rng = random.Random(SEED)
    found: Counter[tuple[str, str]] = Counter()
    try:
        await cluster.start(masters=1, workers=1)
        master, worker = cluster.nodes
        profile, home = cluster.profile, worker.home
        callers = [
            ClientTls(profile.ca.read_bytes(), profile.certificate.read_bytes(), key.read_bytes())
            for key in (profile.key,)
        ]
        callers.append(
            ClientTls(
                home.ca.read_bytes(), home.certificate.read_bytes(), home.tls_key.read_bytes()
            )
        )
        channels = [
            open_channel(node.address, tls=tls, node_id=NodeId(node.node_id), own_connection=True)
            for tls in callers
            for node in (master, worker)
        ]
        async with cluster.client() as client:
            task_id = await client.submit_task("echo", "known")
        texts = (*TEXTS, task_id, master.node_id, worker.node_id)
        methods = [m for m in sorted(RULES_BY_METHOD) if request_type_of(m) is not None]

        async def some(seed: int, count: int) -> None:
            own = random.Random(seed)
            for _ in range(count):
                method = own.choice(methods)
                name = method.rsplit("/", 1)[1]
                channel = own.choice(channels[2:] if name in OF_NODES else channels)
                known = TEXTS if name in OF_STRANGERS else texts
                found[method, await call(channel, method, own, known)] += 1

        seeds = [rng.randrange(2**31) for _ in range(AT_ONCE)]
        await asyncio.gather(*(some(seed, CALLS // AT_ONCE) for seed in seeds))
        for channel in channels:
            await channel.close()
        # A worker has no services of the log.
        allowed = {status.name for status in ALLOWED} | {"OK", "UNIMPLEMENTED"}
        wrong = {
            key: count
            for key, count in found.items()
            # gRPC loses the answer now and then if it comes while requests are still sent.
            if key[1].split()[0] not in allowed and key[1] != "INTERNAL UNREACHABLE"
        }
        assert wrong == {}, f"FUZZ_SEED={SEED}"
        assert {method for method, _ in found} == set(methods)
        # Somebody said in its name what it can do.
        await cluster.kill(worker)
        await cluster.start_node(worker)
        async with cluster.client() as client:

            async def knows_it() -> bool:
                nodes = await client.list_nodes()
                return any("echo" in node.task_types for node in nodes)

            await until(knows_it, seconds=20, what="the worker has come up")
            last = await client.submit_task("echo", "still here")
            ended = await client.wait_tasks([last], timeout=timedelta(seconds=30))
            assert ended[last].result is not None
    finally:
        await cluster.stop()
