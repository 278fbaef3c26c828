"""`clients/examples`: each program does what its page says, with stubs alone."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.model import TaskState
from tests.support.clusters import cluster_of, for_module
from tests.support.programs import TOOLS, needed, running

pytestmark = [pytest.mark.tools, pytest.mark.slow]

GO_WORKER: Final = TOOLS / "bin/go-worker"
ENDED: Final = timedelta(seconds=20)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with for_module(cluster_of(3, 1)) as local:
        yield local


@pytest_asyncio.fixture
async def client(cluster: LocalCluster) -> AsyncIterator[Client]:
    async with cluster.client() as opened:
        yield opened


async def upper(client: Client, text: str, input_cid: str = "") -> bytes:
    """What `go_upper` makes of it."""
    inputs = [("more", input_cid)] if input_cid else []
    task = await client.submit_task("go_upper", text, inputs=inputs)
    ended = (await client.wait_tasks([task], timeout=ENDED))[task]
    assert ended.status.state is TaskState.SUCCEEDED, ended.status.failure
    result = ended.status.result
    assert result is not None
    if result.cid:
        return b"".join([part async for part in client.get_content(result.cid)])
    return result.data or b""


@pytest.mark.asyncio
async def test_a_worker_in_go(cluster: LocalCluster, client: Client, tmp_path: Path) -> None:
    needed(GO_WORKER)
    token = await client.create_join_token("worker")
    enrolment = f"127.0.0.1:{cluster.enrolment_port}"
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text(" and more")
    large.write_text("many words " * 200_000)
    command = [str(GO_WORKER), "-token", token.token, "-enrolment", enrolment, "-renew-after", "3s"]
    async with running(command) as worker:
        did = (await worker.line("enrolled")).split()[1]
        await worker.line("session")
        assert await upper(client, "hello", (await client.add_content(small)).cid) == (
            b"HELLO AND MORE"
        )
        # A result over 64 KiB is a file.
        assert await upper(client, "", (await client.add_content(large)).cid) == (
            large.read_bytes().upper()
        )
        serial = (await worker.line("renewed")).split()[1]
        assert serial in {each.serial for each in await client.list_certificates(did=did)}
        assert await upper(client, "renewed") == b"RENEWED"
        await client.transfer_leadership()
        assert await upper(client, "another leader") == b"ANOTHER LEADER"
