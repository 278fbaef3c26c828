"""What a real cluster records about calls, and who may read it."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import ClusterError, Reason
from tests.support.people import join


@pytest.mark.asyncio
async def test_denied_and_changing_calls_are_noted_with_their_delegation(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    reader = await join(cluster, tmp_path, "reader")
    leader = await cluster.leader(client)
    begin = datetime.now(UTC) - timedelta(seconds=1)
    task_id = await client.submit_task("echo", request_id=f"audit-{time.time_ns()}")
    me = await client.get_caller()
    [root] = [d.cid for d in me.delegations if d.audience == me.did and d.command == "/"]
    async with reader.client() as limited:
        with pytest.raises(ClusterError):
            await limited.submit_task("echo")
        await limited.list_nodes()
        with pytest.raises(ClusterError) as caught:
            await limited.list_audit_records(leader.address, leader.node_id)
        assert caught.value.reason is Reason.NOT_DELEGATED
    with pytest.raises(ClusterError):
        await client.submit_task("no-such-type")
    records = await client.list_audit_records(leader.address, leader.node_id, since=begin)
    mine = [r for r in records if r.caller == me.did and r.method.endswith("/SubmitTask")]
    failed, allowed = mine[:2]
    assert allowed.outcome == "allowed"
    assert list(allowed.delegation_cids) == [root]
    assert allowed.command == "/task/submit"
    assert allowed.request_id.startswith("audit-")
    assert (allowed.object_kind, allowed.object_id) == ("task", task_id)
    assert dict(allowed.arguments) == {"namespace": "default", "task_type": "echo"}
    assert allowed.caller_name == me.name
    assert (failed.object_kind, failed.object_id) == ("namespace", "default")
    assert allowed.peer.startswith("ipv4:127.0.0.1")
    assert failed.outcome == "failed"
    assert failed.reason.startswith("TASK_TYPE_UNKNOWN")
    theirs = [r for r in records if r.caller == reader.did]
    async with reader.client() as limited:
        themselves = await limited.get_caller()
    held = {d.cid for d in themselves.delegations}
    assert {r.caller_name for r in theirs} == {themselves.name}
    # The record says which delegations did not suffice.
    assert all(len(r.delegation_cids) == 1 and r.delegation_cids[0] in held for r in theirs)
    assert {(r.outcome, r.method.rsplit("/", 1)[1]) for r in theirs} == {
        ("denied", "SubmitTask"),
        ("denied", "ListAuditRecords"),
    }
    assert task_id


def test_the_command_line_gathers_what_all_masters_noted(
    cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    assert cli("config", "set", "user.audited", "1").returncode == 0
    listed = cli("audit", "list", "--method", "ProposeConfig", "--json")
    assert listed.returncode == 0, listed.stderr
    records = json.loads(listed.stdout)
    assert records[0]["outcome"] == "AUDIT_OUTCOME_ALLOWED"
    assert records[0]["node_id"] in {node.node_id for node in cluster.nodes}
    assert cli("audit", "list", "--node", "12D3KooWnobody").returncode == 5
    assert (records[0]["object_kind"], records[0]["object_id"], records[0]["arguments"]) == (
        "AUDIT_OBJECT_KIND_SETTING",
        "user.audited",
        {"user.audited": "1"},
    )
    listed = cli("audit", "list")
    [head, line, *_] = listed.stdout.splitlines()
    assert head.split("\t")[3:6] == ["caller", "about", "asked"]
    assert "ProposeConfig\toperator did:key:" in line
    assert "\tsetting user.audited\tuser.audited=1\t" in line
    # Delegations only where they are asked for.
    assert "bafy" not in line
    assert "bafy" in cli("audit", "list", "-v").stdout.splitlines()[1]
    denied = cli("audit", "list", "--outcome", "denied", "--json")
    assert all(record["outcome"] == "AUDIT_OUTCOME_DENIED" for record in json.loads(denied.stdout))
    saved = tmp_path / "audit.parquet"
    assert cli("audit", "list", "--save", str(saved)).returncode == 0
    rows = parquet.read_table(saved).to_pylist()
    [newest, *_] = [row for row in rows if row["method"].endswith("/ProposeConfig")]
    assert newest["outcome"] == "allowed"
    assert newest["delegation_cids"][0].startswith("bafy")
    assert (newest["caller_name"], newest["arguments"]) == ("operator", ["user.audited=1"])
    worker = next(node for node in cluster.nodes if node.role == "worker")
    refused = cli("audit", "list", "--node", worker.node_id)
    assert refused.returncode == 5
    assert "audit.jsonl" in refused.stderr
