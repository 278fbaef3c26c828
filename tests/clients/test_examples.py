"""`clients/examples`: each program does what its page says, with stubs alone."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.config.profiles import Profile
from ipfs_cluster_node.core.model import TaskState
from tests.support.clusters import cluster_of, for_module
from tests.support.people import join, signed
from tests.support.programs import PROTOS, TOOLS, needed, running

pytestmark = [pytest.mark.tools, pytest.mark.slow]

GO_WORKER: Final = TOOLS / "bin/go-worker"
NODE: Final = TOOLS / "node/bin/node"
NODE_CLIENT: Final = TOOLS / "node-client/main.mjs"
JAVA_CLIENT: Final = TOOLS / "java-client"
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
    """What `go_upper` returns for it."""
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
        # A rotation waits for the worker, which renews when a heartbeat says so.
        epoch = await client.rotate_certificates(new_root=False)
        assert (await worker.line("renewed")).split()[-1] == str(epoch)
        await worker.line("session")


@pytest.mark.asyncio
async def test_a_worker_in_go_leaves_a_leader_that_does_not_answer(
    cluster: LocalCluster, client: Client
) -> None:
    needed(GO_WORKER)
    token = await client.create_join_token("worker")
    enrolment = f"127.0.0.1:{cluster.enrolment_port}"
    async with running([str(GO_WORKER), "-token", token.token, "-enrolment", enrolment]) as worker:
        await worker.line("session")
        leader = await cluster.leader(client)
        assert leader.process is not None
        os.kill(leader.process.pid, signal.SIGSTOP)
        try:
            # Its connection would break by keepalive after 15 s, when the lease is long over.
            await asyncio.wait_for(worker.line("session"), 10)
        finally:
            os.kill(leader.process.pid, signal.SIGCONT)
        assert await upper(client, "found it") == b"FOUND IT"
    async with cluster.client(leader) as resumed, asyncio.timeout(10):
        before = (await resumed.get_cluster_status()).node_id
        # The other tests ask it as a follower.
        while (await resumed.get_cluster_status()).leader_node_id in {"", before}:
            await asyncio.sleep(0.1)


async def follower(cluster: LocalCluster, client: Client) -> str:
    """The address of a master that does not lead."""
    leader = await cluster.leader(client)
    return next(n.address for n in cluster.nodes if n.role == "master" and n is not leader)


def files(person: Profile) -> list[str]:
    return [str(file) for file in (person.ca, person.certificate, person.key)]


async def steps_of(command: Sequence[str]) -> dict[str, str]:
    """What a client prints for each of its steps."""
    async with running(command) as program:
        return dict(line.split(" ", 1) for line in await program.ended())


async def check_client(
    start: Callable[..., list[str]], cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    """Run a client as the operator; then as a reader, without and with what the operator delegates.

    `start` makes its command line of a master's address, the files of an identity, and a container.
    """
    leader = await cluster.leader(client)
    at = await follower(cluster, client)
    nodes = " ".join(sorted(node.name for node in await client.list_nodes()))
    all_done = {
        "echo": "hello",
        "sql": "[[300000,299999]]",
        "download": "same",
        "snapshot": nodes,
        "followed": leader.address,
    }
    said = await steps_of(start(at, cluster.profile))
    assert said | all_done == said

    reader = await join(cluster, tmp_path, "reader")
    said = await steps_of(start(at, reader.profile))
    assert said["echo"] == said["upload"] == "refused NOT_DELEGATED"
    assert said["snapshot"] == nodes

    # A task may be submitted now, and a file may not: the program goes on after that refusal.
    operator = Identity.load(cluster.profile.certificate.parent / "identity.key")
    cluster_did = (await client.get_caller()).cluster_did
    task, content = (
        signed(operator, reader.did, command, cluster_did) for command in ("/task", "/content")
    )
    said = await steps_of(start(at, reader.profile, write_container([task])))
    assert said["echo"] == "hello"
    assert said["upload"] == "refused NOT_DELEGATED"
    assert said["snapshot"] == nodes

    said = await steps_of(start(at, reader.profile, write_container([task, content])))
    assert said | all_done == said


@pytest.mark.asyncio
async def test_a_client_in_node(cluster: LocalCluster, client: Client, tmp_path: Path) -> None:
    needed(NODE, NODE_CLIENT)

    def start(address: str, profile: Profile, *container: str) -> list[str]:
        return [str(NODE), str(NODE_CLIENT), address, *files(profile), str(PROTOS), *container]

    await check_client(start, cluster, client, tmp_path)


@pytest.mark.asyncio
async def test_a_client_in_java(cluster: LocalCluster, client: Client, tmp_path: Path) -> None:
    needed(JAVA_CLIENT / ".installed")
    # Arrow reads memory of the JDK that is closed to it without --add-opens.
    java = ["java", "--add-opens=java.base/java.nio=ALL-UNNAMED", "-XX:TieredStopAtLevel=1"]
    classes = ["-cp", f"{JAVA_CLIENT}/classes:{JAVA_CLIENT}/lib/*", "Main"]

    def start(address: str, profile: Profile, *container: str) -> list[str]:
        return [*java, *classes, address, *files(profile), *container]

    await check_client(start, cluster, client, tmp_path)
