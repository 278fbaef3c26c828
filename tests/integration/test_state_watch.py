"""Watches of the state on a real cluster."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.watched_state import WatchedState
from ipfs_cluster_node.core.schemas import ROW_KEYS, STATE_TABLES
from ipfs_cluster_node.core.state_events import Bookmark, Deletions, Reset, ResetCause, StateEvent

pytestmark = pytest.mark.asyncio

SOON = timedelta(milliseconds=200)
SECONDS_MAX = 20.0


async def until_bookmark(
    events: AsyncIterator[StateEvent], state: WatchedState, reached: Any = lambda: True
) -> list[StateEvent]:
    """Apply events until a bookmark at which `reached` holds; returns them."""
    seen: list[StateEvent] = []
    async with asyncio.timeout(SECONDS_MAX):
        async for event in events:
            seen.append(event)
            if state.apply(event) and reached():
                return seen
    raise AssertionError("the watch ended")


async def same(client: Client, state: WatchedState, table: str) -> bool:
    whole = (await client.get_snapshot(table)).to_pylist()

    def key(row: Any) -> tuple[str, ...]:
        return tuple(row[name] for name in ROW_KEYS[table])

    return sorted(whole, key=key) == sorted(map(dict, state.rows(table)), key=key)


async def test_a_watch_follows_every_table(client: Client, tmp_path: Path) -> None:
    state = WatchedState()
    (tmp_path / "file").write_bytes(b"some bytes")
    await client.propose_config({"user.gone": "1"})
    async with aclosing(client.watch_state(STATE_TABLES, bookmark_interval=SOON)) as events:
        await until_bookmark(events, state)
        for table in STATE_TABLES:
            assert await same(client, state, table), table
        added = await client.add_content(tmp_path / "file")
        task = await client.submit_task("echo", b"hello")
        await client.propose_config({"user.kept": "2", "user.gone": ""})
        await client.wait_tasks([task])
        await until_bookmark(
            events,
            state,
            lambda: (
                state.get("content", added.cid)
                and [row["state"] for row in state.get("tasks", task)] == ["succeeded"]
                and state.get("config", "user.kept")
                and not state.get("config", "user.gone")
                and all(row["running_attempt_count"] == 0 for row in state.rows("nodes"))
            ),
        )
        for table in STATE_TABLES:
            assert await same(client, state, table), table
        await client.remove_content(added.cid)
        seen = await until_bookmark(events, state, lambda: not state.get("content", added.cid))
        assert any(isinstance(event, Deletions) and added.cid in event.keys for event in seen)


async def test_a_watch_resumes_at_any_master(cluster: LocalCluster, client: Client) -> None:
    state = WatchedState()
    async with aclosing(client.watch_state("config", bookmark_interval=SOON)) as events:
        await until_bookmark(events, state)
    await client.propose_config({"user.meanwhile": "1"})
    masters = [node for node in cluster.nodes if node.role == "master"]
    for node in masters:
        again = WatchedState()
        again.apply(Bookmark(state.revision, state.resume_token, 0))
        async with (
            cluster.client(node) as of_one,
            aclosing(
                of_one.watch_state(
                    "config", bookmark_interval=SOON, resume_token=state.resume_token
                )
            ) as events,
        ):
            await until_bookmark(events, again, lambda: again.get("config", "user.meanwhile"))  # noqa: B023
        # Only what changed.
        assert [row["key"] for row in again.rows("config")] == ["user.meanwhile"]


async def test_a_token_of_other_tables_begins_again(client: Client) -> None:
    state = WatchedState()
    async with aclosing(client.watch_state("config", bookmark_interval=SOON)) as events:
        await until_bookmark(events, state)
    async with aclosing(
        client.watch_state("tasks", bookmark_interval=SOON, resume_token=state.resume_token)
    ) as events:
        seen = await until_bookmark(events, WatchedState())
    assert isinstance(seen[0], Reset)
    assert seen[0].cause is ResetCause.OTHER_TABLES
