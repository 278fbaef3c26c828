"""Watches of the state on a real cluster."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cli.local_cluster import LocalCluster, command
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.watched_state import WatchedState
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.schemas import ROW_KEYS, STATE_TABLES
from ipfs_cluster_node.core.state_events import Bookmark, Deletions, Reset, ResetCause, StateEvent
from tests.support.environment import environment_with
from tests.support.people import Person, signed

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


async def test_a_watch_follows_the_rights_of_its_caller(
    client: Client, nobody: Person, operator: Identity, cluster_did: str
) -> None:
    """Other rights begin it again, with the rows of these; none end it."""
    await client.propose_config({"user.seen": "1"})
    mine = await client.submit_task("echo", namespace="watched/mine")
    other = await client.submit_task("echo", namespace="watched/other")
    await client.wait_tasks([mine, other])

    def granted(*policy: Any) -> bytes:
        return signed(operator, nobody.did, "/state/read", cluster_did, policy)

    everything, some = granted(), granted(["==", ".namespace", "watched/mine"])
    [of_everything] = await client.put_delegation([everything])
    state = WatchedState()
    async with (
        nobody.client() as reader,
        aclosing(reader.watch_state(("tasks", "config"), bookmark_interval=SOON)) as events,
    ):
        await until_bookmark(events, state)
        assert state.get("config", "user.seen")
        assert state.get("tasks", mine)
        assert state.get("tasks", other)
        [of_some] = await client.put_delegation([some])
        await client.revoke_delegation(of_everything)
        seen = await until_bookmark(events, state, lambda: not state.get("tasks", other))
        resets = [event.cause for event in seen if isinstance(event, Reset)]
        assert set(resets) == {ResetCause.RIGHTS_CHANGED}
        assert state.get("tasks", mine)
        assert not list(state.rows("config"))
        await client.revoke_delegation(of_some)
        with pytest.raises(ClusterError) as ended:
            await until_bookmark(events, state, lambda: False)
    assert ended.value.reason is Reason.NOT_DELEGATED


async def test_a_reader_goes_on_when_its_master_is_stopped(
    cluster: LocalCluster, client: Client
) -> None:
    """It is silent, and its connections stay up."""
    masters = [node for node in cluster.nodes if node.role == "master"]
    leader = await cluster.leader(client)
    stopped = next(node for node in masters if node is not leader)
    assert stopped.process is not None
    state = WatchedState()
    async with (
        cluster.client(stopped, *(n for n in masters if n is not stopped)) as reader,
        aclosing(reader.watch_state("config", bookmark_interval=SOON)) as events,
    ):
        await until_bookmark(events, state)
        stopped.process.send_signal(signal.SIGSTOP)
        try:
            await client.propose_config({"user.while-stopped": "1"})
            seen = await until_bookmark(
                events, state, lambda: state.get("config", "user.while-stopped")
            )
        finally:
            stopped.process.send_signal(signal.SIGCONT)
    assert not [event for event in seen if isinstance(event, Reset)]


async def test_the_command_prints_a_table_and_its_changes(
    client: Client, cli: Any, tmp_path: Path
) -> None:
    del cli  # It wrote the profile.
    out = tmp_path / "out"
    with out.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *command("state", "watch", "config", "--prefix", "user.", "--json"),
            env=environment_with(tmp_path / "profiles.toml"),
            stdout=file,
        )
    try:
        async with asyncio.timeout(SECONDS_MAX):
            while b"bookmark" not in out.read_bytes():
                await asyncio.sleep(0.1)
            await client.propose_config({"user.printed": "1"})
            while b'"user.printed"' not in out.read_bytes():
                await asyncio.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
    finally:
        if process.returncode is None:
            process.kill()
    printed = [json.loads(line) for line in out.read_text().splitlines()]
    kinds = [each["event"] for each in printed]
    assert kinds[-1] == "bookmark" or "upserts" in kinds
    rows = [row for each in printed if each["event"] == "upserts" for row in each["rows"]]
    assert {"key": "user.printed", "value": "1", "default": ""} in rows
    marks = [each["revision"] for each in printed if each["event"] == "bookmark"]
    assert marks == sorted(marks)
