"""A token whose joiners need approval, over real sockets and the command line."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster, command
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.cluster.members import APPROVAL_RETRY
from ipfs_cluster_node.core.views import ListedJoiner
from tests.support.nodes import until


@contextmanager
def joining(cluster: LocalCluster, token: str, home: Path, name: str) -> Iterator[Any]:
    """A `join` that runs until it is admitted or refused."""
    with (home.parent / f"{home.name}.said").open("w+") as said:
        process = subprocess.Popen(
            command(
                *("join", token, "--enrolment", f"127.0.0.1:{cluster.enrolment_port}"),
                *("--home", str(home), "--name", name),
            ),
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


async def waiting(client: Client, name: str) -> ListedJoiner:
    found: list[ListedJoiner] = []

    async def is_there() -> bool:
        found[:] = [each for each in await client.list_joiners() if each.name == name]
        return bool(found)

    await until(is_there, seconds=20, what=f"{name} waits")
    return found[0]


async def ended(process: Any) -> int:
    return int(await asyncio.to_thread(process.wait, 30))


@pytest.mark.asyncio
async def test_who_is_approved_joins_and_who_is_rejected_does_not(
    client: Client, cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    began = datetime.now(UTC)  # Other tests of this module decide at the same cluster.
    made = cli("token", "create", "--role", "worker", "--approve", "--uses", "2", "--json")
    assert made.returncode == 0, made.stderr
    token = json.loads(made.stdout)["token"]
    good, bad = tmp_path / "good", tmp_path / "bad"
    with (
        joining(cluster, token, good, "good") as first,
        joining(cluster, token, bad, "bad") as second,
    ):
        let_in = (await waiting(client, "good")).node_id
        refused = (await waiting(client, "bad")).node_id
        assert first.poll() is None
        assert let_in not in {node.node_id for node in await client.list_nodes()}
        assert not (good / "config.toml").exists()
        # Both ask again meanwhile: nothing is written for that.
        index = (await client.get_cluster_status()).applied_index
        await asyncio.sleep(2.5 * APPROVAL_RETRY.total_seconds())
        assert (await client.get_cluster_status()).applied_index <= index + 1
        shown = cli("node", "joiners")
        assert let_in in shown.stdout
        assert refused in shown.stdout
        assert cli("node", "reject", refused).returncode == 0
        assert await ended(second) == 4
        approved = cli("node", "approve", let_in, "--json")
        assert json.loads(approved.stdout) == {"node_id": let_in, "approved": True}
        assert await ended(first) == 0
    assert f"node approve {let_in}" in (tmp_path / "good.said").read_text()
    said = (tmp_path / "bad.said").read_text()
    assert "node reject" in said
    assert "Traceback" not in said
    assert not (bad / "config.toml").exists()
    assert let_in in {node.node_id for node in await client.list_nodes()}
    leader = await cluster.leader(client)
    records = await client.list_audit_records(leader.address, leader.node_id, since=began)
    decided = [record for record in records if record.method.endswith("DecideJoiner")]
    assert len(decided) == 2
    assert not any(record.reason.startswith("APPROVAL_PENDING") for record in records)
    another = refused[:-1] + ("1" if refused[-1] != "1" else "2")
    assert cli("node", "approve", another).returncode == 5
    await client.remove_node(let_in)


@pytest.mark.asyncio
async def test_who_waits_is_let_in_although_the_leader_changes(
    client: Client, cluster: LocalCluster, tmp_path: Path
) -> None:
    token = (await client.create_join_token("worker", needs_approval=True)).token
    with joining(cluster, token, tmp_path / "late", "late") as process:
        joiner = await waiting(client, "late")
        await client.transfer_leadership()
        await client.decide_joiner(await waiting(client, "late"), approved=True)
        assert await ended(process) == 0
    await client.remove_node(joiner.node_id)
