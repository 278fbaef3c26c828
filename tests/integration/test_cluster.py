"""A real cluster: tasks, content, bad input, what each port refuses."""

import asyncio
import json
import os
import shutil
import socket
import stat
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import grpc
import pytest

from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, tls_name
from ipfs_cluster_node.core.model import TaskState
from ipfs_cluster_node.core.views import ListedTask
from ipfs_cluster_node.v1 import membership_pb2
from ipfs_cluster_node.v1.membership_pb2_grpc import MembershipServiceStub

SOON = timedelta(seconds=30)
ABSENT = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
"""The CID of bytes that nobody has."""
TOOLS = Path(__file__).parents[2] / ".tools" / "bin"


async def run_task(
    client: Client, task_type: str, payload: Any = b"", **options: Any
) -> ListedTask:
    task_id = await client.submit_task(task_type, payload, **options)
    return (await client.wait_tasks([task_id], timeout=SOON))[task_id]


@pytest.mark.asyncio
async def test_sql_over_a_file_gives_the_rows_that_duckdb_gives(
    client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "people.csv"
    path.write_text("name,born\n" + "".join(f"p{n % 7},{1900 + n % 100}\n" for n in range(5000)))
    sql = "SELECT name, avg(born) AS mean, count(*) AS n FROM input GROUP BY name ORDER BY name"
    added = await client.add_content(path)
    assert len(added.holders) == 2
    task = await run_task(client, "data_processing", {"sql": sql}, inputs=[("input", added.cid)])
    assert task.status.result is not None
    with duckdb.connect() as direct:
        expected = direct.execute(sql.replace("input", f"'{path}'")).fetchall()
    rows = json.loads(task.status.result.data or b"")["rows"]
    assert [tuple(row) for row in rows] == expected
    parquet = b"".join([data async for data in client.get_content(task.status.result.cid)])
    assert parquet[:4] == b"PAR1"


@pytest.mark.asyncio
async def test_a_worker_whose_copy_is_damaged_gets_the_file_anew(
    client: Client, cluster: LocalCluster, tmp_path: Path
) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text("a\n" + "".join(f"{n}\n" for n in range(50_000)))
    added = await client.add_content(path)
    sql = {"sql": "SELECT sum(a) FROM input"}
    for _ in range(2):
        tasks = [
            await run_task(client, "data_processing", sql, inputs=[("input", added.cid)])
            for _ in range(3)
        ]
        assert {
            task.status.result.data for task in tasks if task.status.result is not None
        } != set()
        assert all(task.status.result is not None for task in tasks), [
            t.status.failure for t in tasks
        ]
        for node in cluster.nodes:
            if node.role == "worker":
                for block in node.home.content.glob("??/b*"):
                    block.write_bytes(b"damaged")


@pytest.mark.asyncio
async def test_the_seeds_payload_names_its_input_by_cid(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n2\n")
    added = await client.add_content(path)
    payload = {"input_cid": added.cid, "parameters": {"sql": "SELECT sum(a) FROM input"}}
    task = await run_task(client, "data_processing", payload)
    assert task.status.result is not None, task.status.failure
    assert json.loads(task.status.result.data or b"")["rows"] == [["3"]]


@pytest.mark.asyncio
async def test_a_repeat_of_a_request_gets_the_first_answer(client: Client) -> None:
    first = await client.submit_task("echo", b"1", request_id="the-same")
    assert await client.submit_task("echo", b"1", request_id="the-same") == first
    with pytest.raises(ClusterError) as caught:
        await client.submit_task("echo", b"2", request_id="the-same")
    assert caught.value.reason is Reason.REQUEST_ID_REUSED


@pytest.mark.asyncio
async def test_bad_requests_are_refused_with_a_reason_and_the_field(client: Client) -> None:
    for arguments, options, reason, field in (
        (("no_such_type",), {}, Reason.TASK_TYPE_UNKNOWN, "no_such_type"),
        (("",), {}, Reason.INVALID_ARGUMENT, "spec.task_type"),
        (("echo", bytes(1024 * 1024 + 1)), {}, Reason.PAYLOAD_TOO_LARGE, "payload"),
        (("echo",), {"inputs": [("input", "nonsense")]}, Reason.CONTENT_NOT_FOUND, "nonsense"),
        (("echo",), {"attempt_timeout": timedelta(days=9)}, Reason.INVALID_ARGUMENT, "timeout"),
    ):
        with pytest.raises(ClusterError) as caught:
            await client.submit_task(*arguments, **options)
        assert caught.value.reason is reason
        assert field in str(caught.value)
    with pytest.raises(ClusterError) as caught:
        await client.get_task("unknown")
    assert caught.value.reason is Reason.TASK_NOT_FOUND


@pytest.mark.asyncio
async def test_an_absent_cid_fails_at_the_fetch_and_names_who_was_asked(
    client: Client, cluster: LocalCluster
) -> None:
    task = await run_task(
        client, "data_processing", {"sql": "SELECT 1 FROM input"}, inputs=[("input", ABSENT)]
    )
    assert task.status.state is TaskState.FAILED
    assert task.status.failure is not None
    assert task.status.failure.reason is Reason.CONTENT_NOT_FOUND
    masters = [node.node_id for node in cluster.nodes if node.role == "master"]
    assert all(master in task.status.failure.message for master in masters)


@pytest.mark.asyncio
async def test_sql_that_fails_or_reaches_out_says_why(client: Client) -> None:
    for sql in ("SELEC 1", "SELECT * FROM read_text('/etc/passwd')", "INSTALL httpfs"):
        task = await run_task(client, "data_processing", {"sql": sql})
        assert task.status.failure is not None
        assert task.status.failure.reason is Reason.SQL_FAILED
        # A repeat would not help: repeated, it had failed three times. One may be lost.
        assert task.status.attempt < 3


@pytest.mark.asyncio
async def test_sql_without_end_is_over_with_its_time(client: Client) -> None:
    endless = (
        "WITH RECURSIVE t AS (SELECT 1 a UNION ALL SELECT a + 1 FROM t) SELECT count(*) FROM t"
    )
    task = await run_task(
        client, "data_processing", {"sql": endless}, attempt_timeout=timedelta(seconds=1)
    )
    assert task.status.failure is not None
    assert task.status.failure.reason is Reason.ATTEMPT_TIMED_OUT
    assert task.status.finished_at_ms - task.status.assigned_at_ms < 4000


@pytest.mark.asyncio
async def test_a_cancelled_task_ends_and_its_process_with_it(client: Client) -> None:
    sql = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"
    task_id = await client.submit_task("data_processing", {"sql": sql})
    async for seen in client.watch_tasks([task_id], timeout=SOON):
        if seen.status.assigned_at_ms:
            break
    await client.cancel_task(task_id)
    assert (await client.get_task(task_id)).status.state is TaskState.CANCELLED
    with pytest.raises(ClusterError) as caught:
        await client.cancel_task(task_id)
    assert caught.value.reason is Reason.TASK_FINISHED
    # The slot is free again: as many tasks as there are slots run to their end.
    others = [await client.submit_task("echo", b"x") for _ in range(8)]
    assert len(await client.wait_tasks(others, timeout=SOON)) == 8


@pytest.mark.asyncio
async def test_settings_are_agreed_and_bad_ones_refused(client: Client) -> None:
    await client.propose_config({"node_lease": "6s", "user.a": "1"})
    [entry] = await client.get_config("node_lease")
    assert (entry.key, entry.value) == ("node_lease", "6s")
    for key, value in (("node_lease", "1h"), ("node_lease", "soon"), ("nonsense", "1")):
        with pytest.raises(ClusterError) as caught:
            await client.propose_config({"user.a": "2", key: value})
        assert caught.value.reason is Reason.INVALID_ARGUMENT
    with pytest.raises(ClusterError) as caught:
        await client.propose_config({f"user.k{n}": "1" for n in range(1001)})
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    [entry] = await client.get_config("user.a")
    assert entry.value == "1"


@pytest.mark.asyncio
async def test_the_state_comes_as_arrow_tables(client: Client, cluster: LocalCluster) -> None:
    nodes = await client.get_snapshot("nodes")
    assert sorted(nodes.column("name").to_pylist()) == sorted(n.name for n in cluster.nodes)
    tasks = await client.get_snapshot("tasks")
    listed = await client.list_tasks(limit=10_000)
    assert tasks.num_rows == len(listed)


@pytest.mark.asyncio
async def test_a_follower_answers_reads_only_if_they_may_be_stale(
    client: Client, cluster: LocalCluster
) -> None:
    leader = await cluster.leader(client)
    follower = next(n for n in cluster.nodes if n.role == "master" and n is not leader)
    profile = cluster.profile
    tls = ClientTls(
        profile.ca.read_bytes(), profile.certificate.read_bytes(), profile.key.read_bytes()
    )
    channel = open_channel(f"127.0.0.1:{follower.port}", tls=tls, node_id=NodeId(follower.node_id))
    stub, request = MembershipServiceStub(channel), membership_pb2.ListNodesRequest()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ListNodes(request, timeout=5)
    assert error_from_rpc(caught.value).reason is Reason.NOT_LEADER
    call = stub.ListNodes(
        request, timeout=5, metadata=(("ipfs-cluster-node-consistency", "stale"),)
    )
    assert len((await call).nodes) == 5
    trailing = dict(await call.trailing_metadata() or ())
    assert 0 <= int(trailing["ipfs-cluster-node-age-ms"]) < 5000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ListNodes(
            request, timeout=5, metadata=(("ipfs-cluster-node-consistency", "no"),)
        )
    assert error_from_rpc(caught.value).reason is Reason.INVALID_ARGUMENT
    await channel.close()


@pytest.mark.asyncio
async def test_lists_come_in_pages(client: Client) -> None:
    await client.submit_tasks([])
    ids = [await client.submit_task("echo", b"x") for _ in range(5)]
    await client.wait_tasks(ids, timeout=SOON)
    assert [task.task_id for task in await client.list_tasks(limit=5)] == [
        str(each) for each in ids[::-1]
    ]


def test_every_port_refuses_plaintext_and_callers_without_certificate(
    cluster: LocalCluster,
) -> None:
    ca_pem = cluster.profile.ca.read_bytes()
    ports = [node.port for node in cluster.nodes] + [cluster.enrolment_port]
    for port in ports:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            plain.settimeout(15)
            plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            answer = plain.recv(1000)
            assert not answer.startswith(b"\x00\x00"), "HTTP/2 spoken without TLS"

    async def call_without_certificate(port: int, node_id: str) -> grpc.StatusCode:
        channel = open_channel(
            f"127.0.0.1:{port}", tls=None, ca_pem=ca_pem, node_id=NodeId(node_id)
        )
        try:
            await MembershipServiceStub(channel).GetClusterStatus(
                membership_pb2.GetClusterStatusRequest(), timeout=5
            )
        except grpc.aio.AioRpcError as error:
            return error.code()
        finally:
            await channel.close()
        return grpc.StatusCode.OK

    for node in cluster.nodes:
        code = asyncio.run(call_without_certificate(node.port, node.node_id))
        assert code is grpc.StatusCode.UNAVAILABLE


def test_no_secret_is_readable_by_others(cluster: LocalCluster) -> None:
    for path in cluster.root.rglob("*"):
        if path.name == "log":
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == 0, f"{path} has mode {mode:o}"


def test_the_command_line_does_the_main_job(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    cid = cli("content", "add", str(path)).stdout.strip()
    done = cli(
        "task",
        "submit",
        "data_processing",
        "--input",
        f"input={cid}",
        "--sql",
        "SELECT sum(a) AS s FROM input",
        "--wait",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"]["result"]["json"]["rows"] == [["4"]]
    assert cli("content", "get", cid, "-o", str(tmp_path / "u.csv")).returncode == 0
    assert (tmp_path / "u.csv").read_bytes() == path.read_bytes()
    assert json.loads(cli("status", "--json").stdout)["alive_node_count"] == 5
    saved = cli("state", "content", "--save", str(tmp_path / "c.parquet"))
    assert saved.returncode == 0, saved.stderr


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{TOOLS}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed; scripts/test installs it")
    return found


@pytest.mark.tools
def test_grpcurl_lists_describes_and_runs_a_task(cluster: LocalCluster) -> None:
    grpcurl, profile = tool("grpcurl"), cluster.profile
    certificate = [
        "-cacert",
        str(profile.ca),
        "-cert",
        str(profile.certificate),
        "-key",
        str(profile.key),
    ]

    def call(*arguments: str, tls: list[str] = certificate) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [grpcurl, *tls, *arguments], capture_output=True, text=True, timeout=30, check=False
        )

    async def leader_port() -> int:
        async with cluster.client() as client:
            return (await cluster.leader(client)).port

    address = f"127.0.0.1:{asyncio.run(leader_port())}"
    assert "ipfs_cluster_node.v1.TaskDispatchService" in call(address, "list").stdout
    described = call(address, "describe", "ipfs_cluster_node.v1.TaskDispatchService")
    assert "SubmitTaskRequest" in described.stdout
    request = '{"request_id": "from-grpcurl", "spec": {"task_type": "echo", "payload": "aGk="}}'
    submit = "ipfs_cluster_node.v1.TaskDispatchService/SubmitTask"
    task_id = json.loads(call("-d", request, address, submit).stdout)["taskId"]
    watched = call(
        "-d",
        json.dumps({"task_ids": [task_id]}),
        address,
        "ipfs_cluster_node.v1.TaskDispatchService/WatchTasks",
    )
    assert '"data": "aGk="' in watched.stdout
    assert "TASK_STATE_SUCCEEDED" in watched.stdout
    # It sends its headers with the calls of reflection too.
    container = write_container([])
    assert "TaskDispatchService" in call("-H", f"ucan: {container}", address, "list").stdout
    bad = call("-H", "ucan: Cnonsense", address, "list")
    assert bad.returncode != 0
    assert "the container is not canonical CBOR" in bad.stderr
    refused = call(address, "list", tls=["-cacert", str(profile.ca)])
    assert refused.returncode != 0
    worker = next(node for node in cluster.nodes if node.role == "worker")
    health = "ipfs_cluster_node.v1.HealthService/GetHealth"
    # A worker is called by the name of its PeerID, as docs/security.md says; its host has none.
    named = call("-authority", tls_name(NodeId(worker.node_id)), worker.address, health)
    assert json.loads(named.stdout)["nodeId"] == worker.node_id
    assert call(worker.address, health).returncode != 0


@pytest.mark.tools
def test_grpc_health_probe_says_serving(cluster: LocalCluster) -> None:
    probe, profile, node = tool("grpc-health-probe"), cluster.profile, cluster.nodes[1]
    done = subprocess.run(
        [
            probe,
            f"-addr=127.0.0.1:{node.port}",
            "-tls",
            f"-tls-ca-cert={profile.ca}",
            f"-tls-client-cert={profile.certificate}",
            f"-tls-client-key={profile.key}",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "SERVING" in done.stdout + done.stderr, done
    assert done.returncode == 0
