"""The recovery passphrase: it lets a new operator in, and changes."""

import asyncio
import json
import shutil
from typing import Any

import pytest

from ipfs_cluster_node.adapters.keys.delegation import delegate
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.sealing import recovery_key, recovery_request
from ipfs_cluster_node.cli.local_cluster import LocalNode
from ipfs_cluster_node.client.connection import Connection, new_request_id
from ipfs_cluster_node.codec.enums import ROLE
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.config.profiles import PROFILES_VARIABLE
from ipfs_cluster_node.config.settings import load_settings
from ipfs_cluster_node.core.authorization import TOKEN_MINT
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.v1 import membership_pb2
from tests.support.certificates import cluster_keys, node_credentials, tls_of
from tests.support.lab import PASSPHRASE, Lab, alive, error_of, leads, sealed_to
from tests.support.nodes import until
from tests.support.virtual_time import now_ms


@pytest.mark.asyncio
async def test_an_operator_whose_identity_is_lost_is_let_in_by_the_passphrase(lab: Lab) -> None:
    await lab.start(masters=2, workers=1)
    first, second, worker = lab.nodes
    await sealed_to(second)
    home = str(second.home.path)
    passphrase = ("--passphrase-file", "-", "--json", "--home", home)
    refused = lab.run("recover", "operator", *passphrase, stdin=PASSPHRASE + "?")
    assert error_of(refused)["reason"] == "AUTHORITY_SEALED"
    worker_home = ("--passphrase-file", "-", "--json", "--home", str(worker.home.path))
    assert error_of(lab.run("recover", "operator", *worker_home))["reason"] == "CONFIG_INVALID"
    # Its own identity is of no use to anybody.
    shutil.rmtree(lab.profile.certificate.parent)

    made = json.loads(lab.run("recover", "operator", *passphrase, "--ttl", "10m").stdout)
    profiles = str(lab.root.parent / "profiles.toml")
    joined = lab.run(
        *("join", made["token"], "--enrolment", made["enrolment_endpoints"][0]),
        *("--home", str(lab.root.parent / "new-operator"), "--json"),
        variables={PROFILES_VARIABLE: profiles},
    )
    assert joined.returncode == 0, joined.stderr
    config = ("config", "set", "user.by", "the new operator")
    done = lab.run(*config, variables={PROFILES_VARIABLE: profiles})
    assert done.returncode == 0, done.stderr

    # The request of a master is not enough, and a worker is not asked for its reasons.
    authority = cluster_keys(first.home).authority

    async def mint(node: LocalNode, *, role: str, delegated: bool) -> str:
        token = delegate(
            authority,
            Identity.load(node.home.identity).did,
            TOKEN_MINT,
            policy=(["==", ".role", "client"],),
            expires_s=now_ms() // 1000 + 60,
            at_ms=now_ms(),
        ).token
        connection = Connection(
            [(each.address, NodeId(each.node_id)) for each in (first, second)],
            tls_of(node_credentials(node)),
            ucan=write_container([token]) if delegated else "",
        )
        try:
            answer = await connection.unary(
                membership_pb2.CreateJoinTokenRequest(
                    request_id=new_request_id(), role=ROLE.numbers[role]
                ),
                timeout=10,
            )
            return str(answer.token)
        except ClusterError as error:
            return error.reason.value
        finally:
            await connection.close()

    assert await mint(second, role="client", delegated=False) == "NOT_DELEGATED"
    assert await mint(second, role="master", delegated=True) == "NOT_DELEGATED"
    assert (await mint(second, role="client", delegated=True)).startswith("cj1.")
    assert await mint(worker, role="client", delegated=True) == "CALLER_NOT_ALLOWED"
    assert await mint(worker, role="client", delegated=False) == "CALLER_NOT_ALLOWED"


@pytest.mark.asyncio
async def test_another_passphrase_takes_the_old_ones_place(lab: Lab) -> None:
    await lab.start(masters=2, workers=0)
    first, second = lab.nodes
    other = PASSPHRASE + " II"

    def change(node: LocalNode, *given: str, stdin: str = "") -> Any:
        return lab.run("recover", "passphrase", *given, "--home", str(node.home.path), stdin=stdin)

    def opens(node: LocalNode, passphrase: str) -> bool:
        place = ("--passphrase-file", "-", "--json", "--home", str(node.home.path))
        return lab.run("recover", "operator", *place, stdin=passphrase).returncode == 0

    given = ("--passphrase-file", "-", "--json")
    before, after = (lab.root.parent / name for name in ("before", "after"))
    async with lab.client() as client:
        for node in lab.nodes:
            await sealed_to(node)
        await leads(client, first)
        old = cluster_keys(first.home)
        await client.create_backup(before)

        # Who does not lead says so at once, before anybody is told a passphrase.
        refused = change(second)
        assert (refused.returncode, refused.stdout) == (3, "")
        assert f"transfer-leadership {second.node_id}" in refused.stderr
        assert change(first, "--json").returncode == 2
        assert error_of(change(first, *given, stdin="short"))["reason"] == "INVALID_ARGUMENT"
        # Too late is not done later: the file is gone, and nobody takes it any more.
        for _ in range(3):  # The master may look in just that moment, and have it.
            await leads(client, first)
            late = change(first, *given, "--wait", "0s", stdin=other)
            if error_of(late)["reason"] != "UNKNOWN_OUTCOME":
                break
        assert (late.returncode, error_of(late)["reason"]) == (7, "DEADLINE_EXCEEDED")
        request = recovery_request(recovery_key(other, "x").public_key, until_ms=now_ms() - 1)
        write_private(first.home.recovery_next, request)

        async def dropped() -> bool:
            return not first.home.recovery_next.exists()

        await until(dropped, seconds=15, what="what was asked for too long ago is dropped")
        assert opens(first, PASSPHRASE)
        # What can't be read there ends no node.
        first.home.recovery_next.mkdir()
        await asyncio.sleep(2.5)
        assert "remove" in error_of(change(first, *given, stdin=other))["message"]
        first.home.recovery_next.rmdir()

        await leads(client, first)
        done = change(first)
        assert done.returncode == 0, done.stderr
        made = done.stdout.splitlines()[0].removeprefix("recovery passphrase: ")

        async def everywhere() -> bool:
            return all(opens(n, made) and not opens(n, PASSPHRASE) for n in lab.nodes)

        await until(everywhere, seconds=15, what="the new passphrase opens, the old one does not")
        await leads(client, first)
        again = json.loads(change(first, *given, stdin=made).stdout)
        assert again == {"home": str(first.home.path), "changed": False}
        await leads(client, first)
        assert json.loads(change(first, *given, stdin=other).stdout)["changed"]
        # The keys are the same, under another data key.
        now = cluster_keys(first.home)
        assert now.authority.did == old.authority.did
        await client.propose_config({"user.after": "yes"})
        await client.create_backup(after)
    for number, (backup, passphrase, status) in enumerate(
        ((before, PASSPHRASE, 0), (after, PASSPHRASE, 1), (after, other, 0))
    ):
        new = lab.make_node(f"new-{number}")
        arguments = (
            *("recover", "cluster", str(backup), "--passphrase-file", "-", "--json"),
            *("--home", str(new.home.path), "--name", new.name, "--bind", new.address),
            *("--enrolment-bind", f"127.0.0.1:{new.enrolment_port}"),
        )
        refused = lab.run(*arguments, stdin=passphrase)
        assert error_of(refused)["reason"] == ("AUTHORITY_SEALED" if status else "INVALID_ARGUMENT")
        assert status or "runs: not every master is lost" in error_of(refused)["message"]
        assert not new.home.path.exists()
        restored = lab.run(*arguments, "--force", stdin=passphrase)  # A trial.
        assert restored.returncode == status, restored
    await lab.kill(first)
    assert error_of(change(first, *given, stdin=made))["reason"] == "UNREACHABLE"


@pytest.mark.asyncio
async def test_a_passphrase_that_changes_beside_recover_keys_shuts_nobody_out(lab: Lab) -> None:
    """Once only what `recover keys` had left was tried, although the master's own key opened them."""
    await lab.start(masters=2, workers=0)
    first, second = lab.nodes
    other = PASSPHRASE + " II"
    async with lab.client() as client:
        for node in lab.nodes:
            await sealed_to(node)
        await leads(client, first)
        key = recovery_key(PASSPHRASE, load_settings(first.home.config, environment={}).cluster.id)
        write_private(second.home.recovery_key, key.pem())
        await lab.kill(second)
        await lab.start_node(second)
        await alive(client, second)
        await leads(client, first)  # Alone it followed for a while.
        given = ("recover", "passphrase", "--passphrase-file", "-", "--json")
        done = lab.run(*given, "--home", str(first.home.path), stdin=other)
        assert done.returncode == 0, done.stderr
        await leads(client, second)

        async def used_up() -> bool:
            return not second.home.recovery_key.exists()

        await until(used_up, seconds=15, what="the second master opens the keys, and leads")
        await client.rotate_certificates(new_root=False)
