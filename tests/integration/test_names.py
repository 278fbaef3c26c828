"""Names and beginnings of ids at a real cluster, from the command line and from Python."""

import json
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import ClusterError, Reason
from tests.support.commands import complete_in_shell


@pytest.mark.asyncio
async def test_tasks_and_files_are_taken_by_the_beginning_of_their_ids(
    client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "f.csv"
    path.write_text("a\n1\n")
    cid = (await client.add_content(path)).cid
    sql = {"sql": "SELECT * FROM t"}
    task_id = str(await client.submit_task("data_processing", sql, inputs=[("t", cid[:16])]))
    ended = await client.task(task_id[:8]).wait()
    assert ended.task_id == task_id
    assert ended.spec.inputs[0].cid == cid
    assert (await client.get_task(task_id[:8])).task_id == task_id
    assert (await client.stat_content(cid[7:20])).cid == cid
    assert [each.cid for each in await client.list_content(cid_prefix=cid[:16])] == [cid]
    assert [part async for part in client.get_content(cid[:16])] == [b"a\n1\n"]
    with pytest.raises(ClusterError) as refused:
        await client.cancel_task(task_id[:8])
    assert refused.value.reason is Reason.TASK_FINISHED


@pytest.mark.asyncio
async def test_lists_are_filtered_by_the_beginning_of_an_id(client: Client) -> None:
    issued = await client.list_certificates()
    serial = issued[0].serial
    assert [c.serial for c in await client.list_certificates(serial_prefix=serial[:12])] == [serial]
    assert [c.serial for c in await client.list_certificates(serial=serial[:12])] == [serial]
    stored = await client.list_delegations()
    cid = stored[0].cid
    assert [d.cid for d in await client.list_delegations(cid_prefix=cid[:20])] == [cid]
    assert await client.list_delegations(cid_prefix="nothing") == []


def test_the_command_line_takes_names(cluster: LocalCluster, cli: Any, tmp_path: Path) -> None:
    def done(*words: str, status: int = 0) -> str:
        ended = cli(*words)
        assert ended.returncode == status, (words, ended)
        return str(ended.stdout + ended.stderr)

    enrolment = f"127.0.0.1:{cluster.enrolment_port}"
    token = done("token", "create", "--role", "client", "--grant", "reader").splitlines()[0]
    bob = ("--name", "bobby", "--profile-name", "bob", "--home", str(tmp_path / "bob"))
    done("join", token, "--enrolment", enrolment, *bob)
    did = json.loads(done("--profile", "bob", "auth", "whoami", "--json"))["did"]

    made = json.loads(done("token", "delegate", "bobby", "/task/submit", "--json"))
    assert made["audience"] == f"bobby ({did})"
    assert made["cid"] in done("token", "list", "--audience", "bobby")
    assert made["cid"] in done("token", "inspect", made["cid"][:18])
    done("auth", "explain", "--as", "bobby", "--do", "task submit echo")
    assert made["cid"] in done("token", "revoke", made["cid"][:18])
    done("auth", "explain", "--as", "bobby", "--do", "task submit echo", status=4)

    worker = next(
        n for n in json.loads(done("node", "list", "--json")) if n["role"] == "ROLE_WORKER"
    )
    name, node_id = worker["name"], worker["node_id"]
    assert name in done("node", "health", name)
    assert name in done("node", "show", node_id[8:18])
    # Explained is the removal, not the lookup of the name, which the caller makes.
    explained = done("auth", "explain", "--do", f"node remove {name}")
    assert "allowed" in explained
    assert "RemoveNode" in explained
    assert worker["did"] in explained
    done("auth", "explain", "--as", "bobby", "--do", f"node remove {name}", status=4)
    assert "no node 'nobody'" in done("auth", "explain", "--do", "node rm nobody", status=5)
    done("--profile", "bob", "task", "submit", "echo", status=4)
    assert did in done("audit", "list", "--caller", "bobby", "--json")
    master = next(
        n for n in json.loads(done("node", "list", "--json")) if n["role"] == "ROLE_MASTER"
    )
    done("audit", "list", "--node", master["name"])
    assert "is not a master" in done("audit", "list", "--node", name, status=5)

    assert f"bobby ({did})" in done("cert", "revoke", "bobby")
    removed = done("node", "remove", did, "--yes")
    assert "is removed" in removed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_names_and_ids_of_the_cluster_are_completed(
    cluster: LocalCluster, cli: Any, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del cluster  # `cli` has written its profile.
    task_id = cli("task", "submit", "echo").stdout.strip()
    worker = next(
        n for n in json.loads(cli("node", "list", "--json").stdout) if n["role"] == "ROLE_WORKER"
    )
    assert worker["name"] in complete_in_shell(shell, "node health ").stdout
    assert worker["node_id"] in complete_in_shell(shell, "node health 12D3").stdout
    assert task_id in complete_in_shell(shell, f"task get {task_id[:5]}").stdout
    assert task_id not in complete_in_shell(shell, "task get zz").stdout
    assert "echo" in complete_in_shell(shell, "task submit e").stdout
