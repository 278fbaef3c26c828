"""A master whose log is damaged gets a new one from the others, under a new name, or says why not."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.store import stored_voter
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode, command
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.node.log_replacement import DAMAGED_LOGS_MAX
from tests.support.clusters import cluster_of
from tests.support.nodes import check_of, health_of, settings_of, until

REPAIR_SECONDS_MAX = 20.0
SNAPSHOT_ENTRIES = "40"


@pytest_asyncio.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalCluster]:
    monkeypatch.setenv("IPFS_CLUSTER_NODE_RAFT_SNAPSHOT_ENTRIES", SNAPSHOT_ENTRIES)
    async with cluster_of(3, 0, root=tmp_path / "cluster") as local:
        yield local


class Writer:
    """Writes one key after the other, and keeps what was acknowledged."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.acknowledged: dict[str, str] = {}

    async def write(self, count: int) -> None:
        for _ in range(count):
            key, value = f"user.k{len(self.acknowledged)}", str(len(self.acknowledged))
            await self._client.propose_config({key: value}, timeout=timedelta(seconds=20))
            self.acknowledged[key] = value


def flip_a_byte_of_the_journal(node: LocalNode) -> None:
    segment = max(node.home.raft.glob("journal-*"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)


def truncate_the_snapshot(node: LocalNode) -> None:
    snapshot = node.home.raft / "snapshot"
    snapshot.write_bytes(snapshot.read_bytes()[:-7])


def flip_a_byte_of_the_name(node: LocalNode) -> None:
    name = node.home.raft / "voter"
    data = bytearray(name.read_bytes())
    data[data.index(b" ") - 1] ^= 1  # Another incarnation, if nothing checked it.
    name.write_bytes(data)


def flip_the_journals_last_byte(node: LocalNode) -> None:
    segment = max(node.home.raft.glob("journal-*"))
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)


def truncate_the_journal(node: LocalNode) -> None:
    segment = max(node.home.raft.glob("journal-*"))
    segment.write_bytes(segment.read_bytes()[:-2000])


def remove_the_journal(node: LocalNode) -> None:
    for segment in node.home.raft.glob("journal-*"):
        segment.unlink()


def remove_the_directory(node: LocalNode) -> None:
    shutil.rmtree(node.home.raft)


DAMAGES: tuple[Callable[[LocalNode], None], ...] = (
    flip_a_byte_of_the_journal,
    truncate_the_snapshot,
    flip_a_byte_of_the_name,
    flip_the_journals_last_byte,
    truncate_the_journal,
    remove_the_journal,
    remove_the_directory,
)


def voter_of(node: LocalNode) -> str:
    return stored_voter(DirectoryDisk(node.home.raft)) or ""


async def votes(cluster: LocalCluster, node: LocalNode) -> bool:
    """Whether the leader and the node itself know that all vote."""
    everyone = {each.node_id for each in cluster.nodes}
    async with cluster.client() as client:
        listed = {each.node_id for each in await client.list_nodes() if each.voter}
    own = set((await health_of(cluster, node)).raft.voters)
    return listed == own == everyone and (await check_of(cluster, node, "log")).ok


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.asyncio
async def test_a_damaged_log_is_replaced_from_the_others(cluster: LocalCluster) -> None:
    names = {voter_of(node) for node in cluster.nodes}
    async with cluster.client() as client:
        writer = Writer(client)
        for number, damage in enumerate(DAMAGES):
            await writer.write(100)
            node = cluster.nodes[number % 3]
            await cluster.kill(node)
            before = voter_of(node)
            damage(node)
            await writer.write(5)
            await cluster.start_node(node)
            await writer.write(20)
            await until(
                lambda node=node: votes(cluster, node),  # type: ignore[misc]
                seconds=REPAIR_SECONDS_MAX,
                what=f"{node.name} votes again after {damage.__name__}",
            )
            after = voter_of(node)
            assert after not in names, f"{before} came back as {after}"
            names.add(after)
            expected = {e.key: e.value for e in await client.get_config()}

            async def is_equal(node: LocalNode = node, expected: object = expected) -> bool:
                return await settings_of(cluster, node) == expected

            await until(is_equal, seconds=10, what=f"{node.name} has the same state")
            assert writer.acknowledged.items() <= expected.items()
            assert (
                damage is remove_the_directory
                or "set aside" in (await check_of(cluster, node, "log")).detail
            )
        # It votes indeed: with another one away, it is needed for a majority.
        await cluster.kill(cluster.nodes[2])
        await writer.write(5)
    kept = [len(node.home.damaged_logs()) for node in cluster.nodes]
    assert kept == [2, 2, 2]
    assert max(kept) <= DAMAGED_LOGS_MAX


@pytest.mark.slow
@pytest.mark.asyncio
async def test_two_damaged_of_three_are_not_repaired_and_say_so(cluster: LocalCluster) -> None:
    async with cluster.client() as client:
        await Writer(client).write(100)
    first, *damaged = cluster.nodes
    for node in damaged:
        await cluster.kill(node)
        flip_a_byte_of_the_journal(node)
    before = [voter_of(node) for node in damaged]
    kept = [(node.home.raft / "snapshot").read_bytes() for node in damaged]
    for node in damaged:
        await cluster.start_node(node)
    await asyncio.sleep(5)
    for node in damaged:
        assert node.runs
        check = await check_of(cluster, node, "log")
        assert not check.ok
        assert "majority" in check.detail
        assert "backup" in check.detail
        assert str(node.home.raft) in check.detail
        # It serves nothing of what it has.
        async with cluster.client(node, stale=True) as client:
            with pytest.raises(ClusterError) as caught:
                await client.get_config(timeout=timedelta(seconds=1))
            assert caught.value.reason is Reason.LOG_STORAGE_FAILED
    assert [voter_of(node) for node in damaged] == before
    assert [(node.home.raft / "snapshot").read_bytes() for node in damaged] == kept
    health = await health_of(cluster, first)
    assert not health.raft.is_leader
    assert health.raft.leader_node_id == ""


async def said_at_its_start(node: LocalNode, *arguments: str) -> tuple[int, str]:
    """How `serve` ends that can't run."""
    process = await asyncio.create_subprocess_exec(
        *command("serve", "--home", str(node.home.path), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert b"ready" not in out
    assert b"Traceback" not in err
    assert process.returncode is not None
    return process.returncode, err.decode()


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_master_without_log_and_state_asks_the_master_that_it_is_told_of(
    cluster: LocalCluster,
) -> None:
    async with cluster.client() as client:
        await Writer(client).write(5)
        told = await cluster.leader(client)
        node = next(each for each in cluster.nodes if each is not told)
        before = voter_of(node)
        await cluster.kill(node)
        shutil.rmtree(node.home.raft)
        shutil.rmtree(node.home.state)
        status, said = await said_at_its_start(node)
        assert status == 1
        assert "serve --master NODE_ID@HOST:PORT" in said
        assert "only master" not in said
        assert "recover cluster" not in said
        node.arguments = ("--master", f"{told.node_id}@{told.address}")
        await cluster.start_node(node)
        await until(
            lambda: votes(cluster, node), seconds=REPAIR_SECONDS_MAX, what=f"{node.name} votes"
        )
        assert voter_of(node) != before
        expected = {e.key: e.value for e in await client.get_config()}
        assert await settings_of(cluster, node) == expected
        # With an intact log it does not rely on others for who is a master.
        await cluster.kill(node)
        status, said = await said_at_its_start(node, *node.arguments)
        assert status == 2
        assert "leave out --master" in said


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_master_that_lost_only_its_state_takes_part_by_its_log(tmp_path: Path) -> None:
    """No snapshot is made: nothing of its log is applied until a leader says what is committed."""
    async with cluster_of(3, 0, root=tmp_path / "cluster") as cluster:
        async with cluster.client() as client:
            leader = await cluster.leader(client)
            node, other = (each for each in cluster.nodes if each is not leader)
            for each in (node, other):
                await cluster.kill(each)
            shutil.rmtree(node.home.state)
            await cluster.start_node(node)
            # It and the one that leads are a majority: it is needed.
            await client.propose_config({"user.needs": "it"}, timeout=timedelta(seconds=20))

            async def has_it() -> bool:
                return "user.needs" in await settings_of(cluster, node)

            await until(has_it, seconds=REPAIR_SECONDS_MAX, what=f"{node.name} follows")


@pytest.mark.asyncio
async def test_a_single_master_says_that_it_cant_be_repaired(tmp_path: Path) -> None:
    async with cluster_of(1, 0, root=tmp_path / "cluster") as cluster:
        [node] = cluster.nodes
        async with cluster.client() as client:
            await Writer(client).write(10)
        await cluster.kill(node)
        flip_a_byte_of_the_journal(node)
        status, said = await said_at_its_start(node)
        assert status == 1
        assert "If this was the only one" in said
        assert "recover --help" in said


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.asyncio
@pytest.mark.parametrize("what", ["raft", "."])
async def test_an_old_copy_of_a_log_or_of_a_whole_home_is_replaced(
    cluster: LocalCluster, tmp_path: Path, what: str
) -> None:
    """While the other follower is behind: used as it was, it would lose acknowledged writes."""
    async with cluster.client() as client:
        leader = await cluster.leader(client)
        back, behind = (node for node in cluster.nodes if node is not leader)
        writer = Writer(client)
        await writer.write(5)
        await cluster.kill(behind)
        name, copy = voter_of(back), tmp_path / "copy"
        shutil.copytree(back.home.path / what, copy)
        await writer.write(30)
        await cluster.kill(back)
        shutil.rmtree(back.home.path / what)
        shutil.copytree(copy, back.home.path / what)
        await cluster.start_node(back)

        async def says_so() -> bool:
            check = await check_of(cluster, back, "log")
            return not check.ok and "old copy" in check.detail

        await until(says_so, seconds=REPAIR_SECONDS_MAX, what="health tells of the old copy")
        await cluster.start_node(behind)
        await until(lambda: votes(cluster, back), seconds=REPAIR_SECONDS_MAX, what="it votes again")
        assert voter_of(back) != name
        await writer.write(1)
        settings = {entry.key: entry.value for entry in await client.get_config()}
        assert writer.acknowledged.items() <= settings.items()
