"""Lists and tables of a real cluster, of which a policy allows a client to see a part."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.watched_state import WatchedState
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSection
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.node.joining import join_cluster
from ipfs_cluster_node.v1 import state_delta_pb2
from tests.support.nodes import until
from tests.support.people import Person, join, refused, signed

WAIT: Final = timedelta(seconds=30)
WORKERS: Final = [["==", ".role", "worker"]]
TEAM: Final = [["like", ".namespace", "team-a/*"]]

Limited = Callable[..., Client]
"""Makes a client of somebody who may do one thing, as far as a policy goes."""


@pytest_asyncio.fixture
async def limited(nobody: Person, operator: Identity, cluster_did: str) -> AsyncIterator[Limited]:
    def client(command: str, *policy: Any) -> Client:
        token = signed(operator, nobody.did, command, cluster_did, policy)
        return nobody.client(ucan=write_container([token]))

    yield client


@asynccontextmanager
async def waiting(cluster: LocalCluster, client: Client, home: Path, **token: Any) -> Any:
    """A joiner whom nobody has let in yet."""
    made = await client.create_join_token(**token, needs_approval=True)
    asked = asyncio.Event()
    joining = asyncio.create_task(
        join_cluster(
            Home(home),
            NodeSection(name=home.name, role=token["role"]),
            token=made.token,
            enrolment=f"127.0.0.1:{cluster.enrolment_port}",
            on_waiting=lambda _node_id: asked.set(),
        )
    )
    try:
        async with asyncio.timeout(20):
            await asked.wait()
        yield
    finally:
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)


@pytest.mark.asyncio
async def test_nodes_are_listed_as_far_as_they_may_be(client: Client, limited: Limited) -> None:
    roles = {node.node_id: node.role for node in await client.list_nodes()}
    workers = {each for each, role in roles.items() if role is Role.WORKER}
    assert roles.keys() > workers
    async with limited("/cluster/member/list", *WORKERS) as reader:
        assert {node.node_id for node in await reader.list_nodes()} == workers


@pytest.mark.asyncio
async def test_files_are_listed_as_far_as_they_may_be(
    client: Client, limited: Limited, tmp_path: Path
) -> None:
    for size in (10, 20, 30):
        (tmp_path / str(size)).write_bytes(bytes(size))
    cids = [(await client.add_content(tmp_path / str(size))).cid for size in (10, 20, 30)]
    assert {each.cid for each in await client.list_content()} >= set(cids)
    async with limited("/content/read", ["<=", ".size", 20]) as reader:
        assert sorted(each.cid for each in await reader.list_content()) == sorted(cids[:2])
    async with limited("/content/read", ["==", ".cid", cids[2]]) as reader:
        assert [each.cid for each in await reader.list_content()] == [cids[2]]
        assert (await refused(reader.stat_content(cids[0]))).reason is Reason.NOT_DELEGATED


@pytest.mark.asyncio
async def test_joiners_are_listed_as_far_as_they_may_be(
    cluster: LocalCluster, client: Client, limited: Limited, tmp_path: Path
) -> None:
    async with (
        waiting(cluster, client, tmp_path / "w", role="worker"),
        waiting(cluster, client, tmp_path / "r", role="client", grant="reader"),
        waiting(cluster, client, tmp_path / "o", role="client", grant="operator"),
    ):
        assert sorted(each.name for each in await client.list_joiners()) == ["o", "r", "w"]
        async with limited("/admin/enrol/list", *WORKERS) as reader:
            assert [each.name for each in await reader.list_joiners()] == ["w"]
        async with limited("/admin/enrol/list", ["==", ".grant", "reader"]) as reader:
            assert [each.name for each in await reader.list_joiners()] == ["r"]


@pytest.mark.asyncio
async def test_join_tokens_are_listed_and_ended_as_far_as_they_may_be(
    client: Client, limited: Limited
) -> None:
    mine = (await client.get_caller()).did
    ids = {}
    for role in ("worker", "client"):
        token = (await client.create_join_token(role)).token
        ids[role] = token.split(".")[2]
    listed = {each.token_id: each for each in await client.list_join_tokens()}
    assert listed.keys() >= set(ids.values())
    assert {listed[each].creator_did for each in ids.values()} == {mine}
    async with limited("/admin/enrol/list", *WORKERS) as reader:
        seen = await reader.list_join_tokens()
        assert ids["worker"] in [each.token_id for each in seen]
        assert {each.role for each in seen} == {"worker"}
    async with limited("/admin/enrol/list", ["==", ".creator", "did:key:zNobody"]) as reader:
        assert await reader.list_join_tokens() == []
    async with limited("/admin/enrol/revoke", *WORKERS, ["==", ".creator", mine]) as ending:
        error = await refused(ending.revoke_join_token(ids["client"]))
        assert error.reason is Reason.NOT_DELEGATED
        await ending.revoke_join_token(ids["worker"])
    left = {each.token_id for each in await client.list_join_tokens()}
    assert left & set(ids.values()) == {ids["client"]}


@pytest.mark.asyncio
async def test_certificates_are_listed_as_far_as_they_may_be(
    client: Client, limited: Limited, nobody: Person
) -> None:
    assert len({each.did for each in await client.list_certificates()}) > 1
    async with limited("/admin/cert/list", ["==", ".did", nobody.did]) as reader:
        assert [each.did for each in await reader.list_certificates()] == [nobody.did]
        # Nor by asking for them.
        other = (await client.get_caller()).did
        [hidden] = await client.list_certificates(did=other)
        assert await reader.list_certificates(did=other) == []
        assert await reader.list_certificates(serial=hidden.serial) == []
        assert (await refused(reader.get_rotation())).reason is Reason.NOT_DELEGATED


@pytest.mark.asyncio
async def test_delegations_are_listed_as_far_as_they_may_be(
    cluster: LocalCluster,
    client: Client,
    nobody: Person,
    operator: Identity,
    cluster_did: str,
    tmp_path: Path,
) -> None:
    """This method takes what is kept for its caller: those that a call brings are not looked at."""
    one, other = [await join(cluster, tmp_path, "reader") for _ in range(2)]
    everything = await client.list_delegations()
    assert {one.did, other.did, operator.did} <= {each.audience for each in everything}
    policy = [["==", ".audience", one.did]]
    token = signed(operator, nobody.did, "/ucan/list", cluster_did, policy)
    [kept] = await client.put_delegation([token])
    async with nobody.client() as reader:
        shown = await reader.list_delegations()
        assert {each.audience for each in shown} == {one.did, nobody.did}
        assert kept in {each.cid for each in shown}
        assert await reader.list_delegations(audience=other.did) == []


@pytest.mark.asyncio
async def test_settings_are_listed_as_far_as_they_may_be(client: Client, limited: Limited) -> None:
    await client.propose_config({"user.team.x": "1", "user.other": "2"})
    async with limited("/config/read", ["==", ".kind", "user"]) as reader:
        assert {e.key for e in await reader.get_config()} == {"user.team.x", "user.other"}
        assert (await refused(reader.get_config("node_lease"))).reason is Reason.NOT_DELEGATED
    async with limited("/config/read", ["like", ".path", "user/team/*"]) as reader:
        assert [entry.key for entry in await reader.get_config()] == ["user.team.x"]


@pytest.mark.asyncio
async def test_tasks_are_listed_as_far_as_they_may_be(client: Client, limited: Limited) -> None:
    shown = await client.submit_task("echo", namespace="team-a/nightly")
    hidden = [
        await client.submit_task("echo", namespace=namespace)
        for namespace in ("team-b/nightly", "team-a", "team-a-evil/x")
    ]
    everything = {task.task_id for task in await client.list_tasks(limit=1000)}
    assert everything >= {shown, *hidden}
    async with limited("/task/read", *TEAM) as reader:
        listed = await reader.list_tasks(limit=1000)
        assert str(shown) in {task.task_id for task in listed}
        assert {task.spec.namespace.split("/")[0] for task in listed} == {"team-a"}
        assert not {task.task_id for task in listed} & set(hidden)


@pytest.mark.asyncio
async def test_a_watch_of_a_task_that_may_not_be_read_is_refused_whole(
    client: Client, limited: Limited
) -> None:
    """Each was named in the request: if one were left out, its watcher would wait for ever."""
    mine = await client.submit_task("echo", "hello", namespace="team-a/x")
    other = await client.submit_task("echo", namespace="team-b/x")
    async with limited("/task/read", *TEAM) as reader:
        ended = await reader.wait_tasks([mine], timeout=WAIT)
        assert ended[mine].status.result is not None
        for hidden in (other, "no-such-task"):
            watched = [mine, hidden]
            error = await refused(reader.wait_tasks(watched, timeout=WAIT))
            assert error.reason is Reason.NOT_DELEGATED


async def column(reader: Client, table: str, name: str) -> set[Any]:
    return set((await reader.get_snapshot(table)).column(name).to_pylist())


@pytest.mark.asyncio
async def test_each_table_shows_the_rows_that_may_be_read(
    client: Client, limited: Limited, tmp_path: Path
) -> None:
    """Whatever the policy: a row is visible if its own arguments satisfy it."""
    path = tmp_path / "f"
    path.write_bytes(b"x" * 77)
    cid = (await client.add_content(path)).cid
    mine = await client.submit_task("echo", namespace="rows/a")
    await client.submit_task("echo", namespace="rows/b")
    tables = ("nodes", "tasks", "content", "config")
    assert len(tables) == len(state_delta_pb2.StateTable.keys()) - 1

    async def rows(reader: Client) -> dict[str, int]:
        shown = {table: (await reader.get_snapshot(table)).num_rows for table in tables}
        watched = WatchedState()
        counts: dict[str, int] = {}
        async with asyncio.timeout(5):  # Any master answers, perhaps one that is a little behind.
            async for event in reader.watch_state(tables):
                if watched.apply(event):
                    counts = {table: len(list(watched.rows(table))) for table in tables}
                if counts == shown:
                    break
        return shown

    everything = await rows(client)
    assert min(everything.values()) > 0
    nothing = dict.fromkeys(tables, 0)
    async with limited("/state/read", ["==", ".namespace", "rows/a"]) as reader:
        assert await rows(reader) == nothing | {"tasks": 1}
        assert await column(reader, "tasks", "task_id") == {mine}
    async with limited("/state/read", *WORKERS) as reader:
        assert await rows(reader) == nothing | {"nodes": 2}
        assert await column(reader, "nodes", "role") == {"worker"}
    async with limited("/state/read", ["<=", ".size", 77], ["==", ".cid", cid]) as reader:
        assert (await rows(reader))["content"] > 0
        assert (await rows(reader)) | {"content": 0} == nothing
        assert await column(reader, "content", "cid") == {cid}
    async with limited("/state/read", ["==", ".table", "tasks"]) as reader:
        assert await rows(reader) == nothing | {"tasks": everything["tasks"]}
    async with limited("/state/read", ["==", ".table", "config"]) as reader:
        assert await rows(reader) == nothing | {"config": everything["config"]}
    # Where a row has no size, it counts as larger than any limit.
    async with limited("/state/read", ["<=", ".size", 77]) as reader:
        assert (await rows(reader)) | {"content": 0} == nothing
    # Nobody's are not the caller's own.
    async with limited("/state/read", ["==", ".self", True]) as reader:
        assert await rows(reader) == nothing
    async with limited("/task/read") as reader:
        assert (await refused(reader.get_snapshot("tasks"))).reason is Reason.NOT_DELEGATED


@pytest.mark.asyncio
async def test_a_list_is_explained_as_it_is_judged(
    client: Client, nobody: Person, operator: Identity, cluster_did: str
) -> None:
    """Once it was reported as denied whenever a policy has conditions on its items."""
    methods = ("TaskDispatchService/ListTasks", "StateDeltaService/GetSnapshot")
    names = [f"/ipfs_cluster_node.v1.{method}" for method in methods]
    for name in names:
        assert not (await client.explain_access(name, b"", did=nobody.did)).allowed
    tokens = [
        signed(operator, nobody.did, command, cluster_did, TEAM)
        for command in ("/task/read", "/state/read")
    ]
    await client.put_delegation(tokens)

    async def allowed() -> bool:
        said = [await client.explain_access(name, b"", did=nobody.did) for name in names]
        assert all(each.requirements[0].command in ("/task/read", "/state/read") for each in said)
        return all(each.allowed for each in said)

    await until(allowed, seconds=5, what="lists are said to be allowed")
    async with nobody.client() as reader:
        assert isinstance(await reader.list_tasks(), list)
        assert (await reader.get_snapshot("nodes")).num_rows == 0
