"""Settings on real masters: one history at each, plans that change nothing, and the way back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.config_history import VERSIONS_MAX
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.views import ListedConfigVersion
from tests.support.clusters import cluster_of
from tests.support.nodes import until

PROPOSALS = VERSIONS_MAX
AT_ONCE = 200


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with cluster_of(3, 0, root=tmp_path / "cluster") as cluster:
        yield cluster


async def settings(client: Client) -> dict[str, str]:
    return {each.key: each.value for each in await client.get_config()}


async def histories(cluster: LocalCluster) -> list[list[ListedConfigVersion]]:
    """The versions that each master has."""
    found = []
    for node in cluster.nodes:
        async with cluster.client(node, stale=True) as client:
            found.append(await client.list_config_versions())
    return found


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.asyncio
async def test_concurrent_proposals_give_one_history_at_every_master(cluster: LocalCluster) -> None:
    async with cluster.client() as client:
        limit = asyncio.Semaphore(AT_ONCE)

        async def propose(number: int) -> None:
            async with limit:
                await client.propose_config({f"user.k{number % 7}": str(number)})

        await asyncio.gather(*map(propose, range(PROPOSALS)))

        async def is_one() -> bool:
            first, *others = await histories(cluster)
            return len(first) == PROPOSALS and all(each == first for each in others)

        await until(is_one, seconds=20, what="every master has the same versions")
        versions = [*reversed((await histories(cluster))[0])]
        assert [each.version for each in versions] == [*range(1, PROPOSALS + 1)]
        set_ = [int(change.new_value) for each in versions for change in each.changes]
        assert sorted(set_) == [*range(PROPOSALS)]
        assert {each.proposer_name for each in versions} == {"operator"}
        now: dict[str, str] = {}
        for each in versions:
            for change in each.changes:
                assert change.old_value == now.get(change.key, "")
                now[change.key] = change.new_value
        assert now.items() <= (await settings(client)).items()


@pytest.mark.timeout(120)
@pytest.mark.asyncio
async def test_plan_refuse_revert_and_watch(cluster: LocalCluster) -> None:
    async with cluster.client() as client:
        before = await settings(client)
        watched: list[ListedConfigVersion] = []

        async def watch() -> None:
            async for version in client.watch_config():
                watched.append(version)  # noqa: PERF401  # As they come.

        watching = asyncio.create_task(watch())
        await asyncio.sleep(1)
        values = {"node_lease": "0.1m", "task_bytes_max": "2MiB", "user.a": "ä"}
        planned = await client.plan_config(values, if_values={"node_lease": "5s"})
        assert [(p.key, p.value, p.new_value, p.default_value, p.changes) for p in planned] == [
            ("node_lease", "5s", "6s", "5s", True),
            ("task_bytes_max", "268435456", "2097152", "268435456", True),
            ("user.a", "", "ä", "", True),
        ]
        assert await settings(client) == before
        await client.propose_config(values)
        await client.propose_config({"node_lease": "7s", "user.a": "", "user.b": "1"})
        changed = await settings(client)

        for bad, expected, reason, named in (
            ({"node_lease": "1h"}, {}, Reason.INVALID_ARGUMENT, "node_lease"),
            ({"node_leese": "6s"}, {}, Reason.INVALID_ARGUMENT, "did you mean node_lease?"),
            ({"user.b": "ä" * 600}, {}, Reason.INVALID_ARGUMENT, "values[user.b]"),
            ({"user.b": "2"}, {"user.b": "0"}, Reason.CONFIG_CHANGED, "user.b"),
        ):
            for ask in (client.propose_config, client.plan_config):
                with pytest.raises(ClusterError) as refused:
                    await ask({"user.c": "1", **bad}, if_values=expected)
                assert refused.value.reason is reason
                assert named in str(refused.value)
        assert {len(each) for each in await histories(cluster)} <= {2}
        assert await settings(client) == changed

        assert [each.new_value for each in await client.plan_revert(1)] == ["6s", "ä", ""]
        await client.revert_config(0)
        assert await settings(client) == before
        await client.revert_config(2)
        assert await settings(client) == changed
        assert await client.revert_config(4) == []
        for number in (5, -1):
            with pytest.raises(ClusterError) as refused:
                await client.revert_config(number)
            assert refused.value.reason is Reason.VERSION_NOT_FOUND
        [second] = await client.list_config_versions(version=2)
        assert [(c.key, c.old_value, c.new_value) for c in second.changes] == [
            ("node_lease", "6s", "7s"),
            ("user.a", "ä", ""),
            ("user.b", "", "1"),
        ]
        of_b = await client.list_config_versions(key="user.b")
        assert [each.version for each in of_b] == [4, 3, 2]
        assert await client.list_config_versions(after_version=3, limit=1) == [
            (await client.list_config_versions())[0]
        ]

        async def all_seen() -> bool:
            return [each.version for each in watched] == [1, 2, 3, 4]

        await until(all_seen, seconds=10, what="the watch has every version")
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
