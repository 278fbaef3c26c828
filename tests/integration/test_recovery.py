"""Masters, keys, operators and whole clusters are lost, and come back."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_pem_private_key,
)

from ipfs_cluster_node.adapters.clock import now_ms
from ipfs_cluster_node.adapters.keys.certificates import pin_of, read_certificate
from ipfs_cluster_node.adapters.keys.delegation import delegate
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.sealing import recovery_key, recovery_request
from ipfs_cluster_node.adapters.net.tls import open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode, command
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.connection import Connection, new_request_id
from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.codec.ucan_mint import sign_delegation
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import PROFILES_VARIABLE, ProfileEndpoint, save_profile
from ipfs_cluster_node.config.settings import NodeSettings, load_settings
from ipfs_cluster_node.core.authorization import TASK_SUBMIT, TOKEN_MINT
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did, NodeId
from ipfs_cluster_node.core.model import Liveness
from ipfs_cluster_node.core.views import ListedNode
from ipfs_cluster_node.node.joining import join_cluster
from ipfs_cluster_node.v1 import membership_pb2
from ipfs_cluster_node.v1.membership_pb2_grpc import MembershipServiceStub
from tests.integration.test_secrets import found, secret_of, spellings
from tests.support.certificates import (
    certificate_ending,
    cluster_keys,
    node_credentials,
    put_node_credentials,
    tls_of,
)
from tests.support.nodes import health_of, settings_of, until
from tests.support.people import Person, join

PASSPHRASE = "a passphrase of the tests"
ENDED = timedelta(seconds=60)


class Lab(LocalCluster):
    """A cluster whose operator's identity is not lost with the first master."""

    async def start(self, **counts: Any) -> None:
        await super().start(**counts)
        operator = self.root.parent / "operator"
        shutil.move(self.profile.certificate.parent, operator)
        self.profile = replace(
            self.profile,
            ca=operator / self.profile.ca.name,
            certificate=operator / self.profile.certificate.name,
            key=operator / self.profile.key.name,
        )

    def run(
        self, *arguments: str, stdin: str = PASSPHRASE, variables: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run the command line, with the recovery passphrase as its input."""
        return subprocess.run(
            command(*arguments),
            input=stdin,
            env={**os.environ, **(variables or {})},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest_asyncio.fixture
async def lab() -> AsyncIterator[Lab]:
    root = Path(tempfile.mkdtemp(prefix="cluster-"))
    cluster = Lab(root / "nodes", recovery_passphrase=PASSPHRASE)
    try:
        yield cluster
    finally:
        await cluster.stop()
        shutil.rmtree(root, ignore_errors=True)


def error_of(done: "subprocess.CompletedProcess[str]") -> Mapping[str, str]:
    assert done.returncode != 0, done.stdout
    error: Mapping[str, str] = json.loads(done.stderr.splitlines()[-1])["error"]
    return error


async def echo(client: Client, text: str) -> str:
    task_id = await client.submit_task("echo", text)
    ended = (await client.wait_tasks([task_id], timeout=ENDED))[task_id]
    assert ended.result is not None
    assert ended.result.data == text.encode()
    return task_id


async def sealed_to(node: LocalNode) -> None:
    async def sealed() -> bool:
        return bool(cluster_keys(node.home).cas)

    await until(sealed, seconds=15, what=f"the keys are sealed to {node.name}")


async def listed(client: Client, node: LocalNode) -> ListedNode:
    return next(each for each in await client.list_nodes() if each.node_id == node.node_id)


async def alive(client: Client, node: LocalNode) -> None:
    async def is_alive() -> bool:
        liveness = (await listed(client, node)).liveness
        return liveness is Liveness.ALIVE

    await until(is_alive, seconds=30, what=f"{node.name} is alive")


async def leads(client: Client, node: LocalNode) -> None:
    """Have a node lead, which is not asked for twice where it does already."""

    async def handed_over() -> bool:
        return await client.transfer_leadership(node.node_id) == node.node_id

    await until(handed_over, seconds=20, what=f"{node.name} leads")


async def given(client: Client, lab: Lab) -> tuple[Person, str]:
    """A client that was let do more since it joined, by the operator; the CID of that delegation."""
    person = await join(lab, lab.root.parent, "reader")
    operator = Identity.load(lab.profile.certificate.parent / "identity.key")
    token = sign_delegation(
        operator.private_key,
        audience=person.did,
        subject=Did((await client.get_caller()).cluster_did),
        command=TASK_SUBMIT,
        policy=[],
        expires_s=now_ms() // 1000 + 3600,
    )
    await client.put_delegation([token])
    async with person.client() as calling:
        await calling.submit_task("echo", "by delegation")
    return person, str(cid_of_token(token))


@pytest.mark.asyncio
async def test_one_master_of_three_goes_on_alone(lab: Lab) -> None:
    await lab.start(masters=3, workers=1)
    first, second, third, worker = lab.nodes
    survivor, lost = second, (first, third)
    async with lab.client() as client:
        await sealed_to(survivor)
        await client.propose_config({"user.kept": "yes", "task_retention": "8d"})
        task_id = await echo(client, "before")
        result = (await client.get_task(task_id)).result
        person, delegation = await given(client, lab)
        await client.transfer_leadership(first.node_id)
        pending = await client.submit_task("echo", "under way", attempt_timeout=ENDED)
    home = str(survivor.home.path)
    await lab.kill(survivor)
    early = error_of(lab.run("recover", "alone", "--yes", "--json", "--home", home))
    assert early["reason"] == "INVALID_ARGUMENT"
    assert f"{first.node_id} leads: the cluster is not lost" in early["message"]
    await lab.start_node(survivor)
    for node in lost:
        await lab.kill(node)
    old = lab.root / "old-disk"
    shutil.copytree(third.home.path, old)
    for node in lost:
        shutil.rmtree(node.home.path)
    async with lab.client(survivor) as client:
        with pytest.raises(ClusterError) as caught:
            await client.propose_config({"user.lost": "x"}, timeout=timedelta(seconds=4))
        assert caught.value.reason is Reason.NO_LEADER

    assert error_of(lab.run("recover", "alone", "--yes", "--json", "--home", home))["reason"] == (
        "HOME_IN_USE"
    )
    await lab.kill(survivor)
    files = sorted(p.name for p in survivor.home.raft.iterdir())
    refused = lab.run("recover", "alone", "--home", home, stdin="n\n")
    assert refused.returncode == 1
    assert "master-1" in refused.stderr
    assert third.node_id in refused.stderr
    assert sorted(p.name for p in survivor.home.raft.iterdir()) == files
    assert lab.run("recover", "alone", "--json", "--home", home).returncode == 2
    done = lab.run("recover", "alone", "--yes", "--json", "--home", home)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["removed_node_ids"]) == {n.node_id for n in lost}

    await lab.start_node(survivor)
    # They know its address already, and are told nothing.
    async with lab.client(*lost, survivor) as client, person.client() as reader:
        await alive(client, worker)
        values = await settings_of(lab, survivor)
        assert values["user.kept"] == "yes"
        assert values["task_retention"] == "8d"
        assert (await client.get_task(task_id)).result == result
        assert (await client.wait_tasks([pending], timeout=ENDED))[pending].result is not None
        await echo(client, "after")
        kept = {each.cid for each in await client.list_delegations(audience=person.did)}
        assert delegation in kept
        await echo(reader, "by delegation")
        masters = [n for n in await client.list_nodes() if n.voter]
        assert [n.node_id for n in masters] == [survivor.node_id]
        await sealed_to(survivor)

        # One that was lost comes back, with all it had.
        before = (await client.get_cluster_status()).term
        shutil.copytree(old, third.home.path)
        await lab.start_node(third)
        await asyncio.sleep(5)
        check = next(c for c in (await _health(third)).checks if c.name == "lease")
        assert not check.ok
        assert "was removed" in check.detail  # At the door: whatever it asks.
        async with lab.client(third) as asking:
            with pytest.raises(ClusterError) as caught:
                await asking.propose_config({"user.two": "x"}, timeout=timedelta(seconds=2))
        assert caught.value.reason is Reason.NO_LEADER
        assert (await client.get_cluster_status()).term == before
        await echo(client, "undisturbed")

        lab.nodes.remove(first)
        fourth = lab.make_node("master-4")
        await join_anew(lab, client, fourth, by=survivor)
        assert (await settings_of(lab, fourth))["user.kept"] == "yes"


async def join_anew(lab: Lab, client: Client, node: LocalNode, *, by: LocalNode) -> None:
    """Have a master join, and vote, and get the cluster's keys."""
    token = (await client.create_join_token("master")).token
    await join_cluster(
        node.home,
        lab._settings(node),
        token=token,
        enrolment=f"127.0.0.1:{by.enrolment_port}",
    )
    await lab.start_node(node)
    if node not in lab.nodes:
        lab.nodes.append(node)

    async def votes() -> bool:
        return (await listed(client, node)).voter

    await until(votes, seconds=20, what="a new master votes")
    await sealed_to(node)


@pytest.mark.asyncio
async def test_of_two_masters_of_five_one_goes_on_and_the_other_joins_anew(lab: Lab) -> None:
    await lab.start(masters=5, workers=1)
    *masters, worker = lab.nodes
    async with lab.client() as client:
        for node in masters:
            await sealed_to(node)
        leader = await lab.leader(client)
        survivor, other, *lost = (n for n in masters if n is not leader)
        lost.append(leader)
        await client.propose_config({"user.kept": "yes"})
    for node in (*lost, survivor):
        await lab.kill(node)
    for node in lost:
        shutil.rmtree(node.home.path)

    async def nobody_leads() -> bool:
        return not next(c for c in (await _health(other)).checks if c.name == "leader").ok

    await until(nobody_leads, seconds=20, what="the other master names no leader any longer")
    home = str(survivor.home.path)
    done = lab.run("recover", "alone", "--yes", "--json", "--home", home)
    assert done.returncode == 0, done.stderr
    removed = {node.node_id for node in (*lost, other)}
    assert set(json.loads(done.stdout)["removed_node_ids"]) == removed

    await lab.start_node(survivor)  # The other master still runs, and has not heard of it.
    async with lab.client(other, survivor) as client:
        await alive(client, worker)
        assert (await settings_of(lab, survivor))["user.kept"] == "yes"
        term = (await client.get_cluster_status()).term

        async def is_told() -> bool:
            check = next(c for c in (await _health(other)).checks if c.name == "lease")
            return not check.ok and "was removed" in check.detail

        await until(is_told, seconds=20, what="the other master is told that it was removed")
        await echo(client, "undisturbed")
        assert (await client.get_cluster_status()).term == term
        await lab.kill(other)
        lab.nodes.remove(other)
        shutil.rmtree(other.home.path)
        again = lab.make_node("master-2b")
        await join_anew(lab, client, again, by=survivor)
        assert {n.node_id for n in await client.list_nodes() if n.voter} == {
            survivor.node_id,
            again.node_id,
        }
        await echo(client, "after")


async def _health(node: LocalNode) -> Any:
    """Ask a node that the cluster has removed, by its own certificate."""
    from ipfs_cluster_node.v1 import health_pb2
    from ipfs_cluster_node.v1.health_pb2_grpc import HealthServiceStub

    channel = open_channel(
        node.address, tls=tls_of(node_credentials(node)), node_id=NodeId(node.node_id)
    )
    try:
        return await HealthServiceStub(channel).GetHealth(health_pb2.GetHealthRequest(), timeout=5)
    finally:
        await channel.close()


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

    # That a master asks is not enough, and a worker is not asked for its reasons.
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
                lambda channel: MembershipServiceStub(channel).CreateJoinToken,
                membership_pb2.CreateJoinTokenRequest(request_id=new_request_id(), role=role),
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
async def test_a_cluster_whose_masters_are_all_lost_goes_on_from_a_backup(lab: Lab) -> None:
    await lab.start(masters=2, workers=1)
    first, second, worker = lab.nodes
    outside = lab.root.parent
    variables = {PROFILES_VARIABLE: str(outside / "profiles.toml")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PROFILES_VARIABLE, variables[PROFILES_VARIABLE])
        save_profile("default", lab.profile)
    file = outside / "backup"
    async with lab.client() as client:
        await sealed_to(second)
        await client.propose_config({"user.kept": "yes", "task_retention": "8d"})
        task_id = await echo(client, "before")
        person, delegation = await given(client, lab)
        cluster_did = (await client.get_caller()).cluster_did
        leader = await lab.leader(client)
        keys = cluster_keys(leader.home)
        done = lab.run("cluster", "backup", str(file), "--json", variables=variables)
        assert done.returncode == 0, done.stderr
        assert file.stat().st_mode & 0o777 == 0o600
        assert json.loads(done.stdout)["size_bytes"] == file.stat().st_size
        await client.propose_config({"user.later": "lost"})
        with pytest.raises(ClusterError) as caught:
            async with person.client() as reader:
                await reader.create_backup(outside / "not-mine")
        assert caught.value.reason is Reason.NOT_DELEGATED
        noted = await client.list_audit_records(leader.address, leader.node_id)
        made = [r for r in noted if r.method.endswith("/CreateBackup")]
        assert sorted(r.outcome for r in made) == ["allowed", "denied"]
        explained = lab.run("auth", "explain", "--do", "cluster backup x", variables=variables)
        assert explained.returncode == 0, explained.stderr
        assert "/admin/backup" in explained.stdout
    again = lab.run("cluster", "backup", str(file), "--json", variables=variables)
    assert error_of(again)["reason"] == "INVALID_ARGUMENT"
    assert "--force" in error_of(again)["message"]
    assert sorted(p.name for p in outside.iterdir() if "backup" in p.name or "mine" in p.name) == [
        "backup"
    ]
    no_secret_in(file.read_bytes(), lab, keys.authority, [ca.key_der for ca in keys.cas])

    serial = read_certificate(node_credentials(worker).certificate_pem).serial
    await lab.stop()
    for node in (first, second):
        shutil.rmtree(node.home.path)

    new = lab.make_node("master-9")
    where = ("--bind", new.address, "--enrolment-bind", f"127.0.0.1:{new.enrolment_port}")
    recover = ("--passphrase-file", "-", "--name", "master-9", *where, "--json")
    whole = file.read_bytes()
    damaged = outside / "damaged"
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    home = ("--home", str(new.home.path))
    for data in (b"", whole[:-1], whole[:middle], flipped, b"no backup at all, but of some length"):
        damaged.write_bytes(data)
        refused = lab.run("recover", "cluster", str(damaged), *recover, *home)
        assert error_of(refused)["reason"] == "INVALID_ARGUMENT"
        assert str(damaged) in error_of(refused)["message"]
    wrong = lab.run("recover", "cluster", str(file), *recover, *home, stdin=PASSPHRASE + "?")
    assert error_of(wrong)["reason"] == "AUTHORITY_SEALED"
    assert not new.home.path.exists()
    done = lab.run("recover", "cluster", str(file), *recover, *home)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert set(made["removed_node_ids"]) == {first.node_id, second.node_id}
    assert error_of(lab.run("recover", "cluster", str(file), *recover, *home))["reason"] == (
        "HOME_EXISTS"
    )

    told = ("--master", f"{made['node_id']}@{new.address}")
    assert lab.run("serve", *home, *told).returncode == 2  # Its log says who the masters are.

    await lab.start_node(new)
    assert new.node_id == made["node_id"]
    lab.nodes = [new, worker]
    at_new = (ProfileEndpoint(new.address, new.node_id),)
    person = replace(person, profile=replace(person.profile, endpoints=at_new))
    lab.profile = replace(lab.profile, endpoints=at_new)
    # The old operator, with its old certificate.
    async with lab.client() as client, person.client() as reader:
        assert (await client.get_caller()).cluster_did == cluster_did
        values = await settings_of(lab, new)
        assert values["user.kept"] == "yes"
        assert values["task_retention"] == "8d"
        assert "user.later" not in values
        assert (await client.get_task(task_id)).result is not None
        assert {n.name for n in await client.list_nodes()} == {"master-9", "worker-1"}
        await sealed_to(new)
        roots = [pin_of(ca.certificate_pem) for ca in cluster_keys(new.home).cas]
        assert roots == [pin_of(ca.certificate_pem) for ca in keys.cas]
        token = await client.create_join_token("worker")
        assert token.token.split(".")[1] == roots[0]
        assert cluster_keys(new.home).authority.did == keys.authority.did

        # An old worker hears where the new master is, and goes on with what it has.
        worker.arguments = told
        await lab.start_node(worker)
        await alive(client, worker)
        assert read_certificate(node_credentials(worker).certificate_pem).serial == serial
        await echo(client, "by an old worker")
        kept = {each.cid for each in await client.list_delegations(audience=person.did)}
        assert delegation in kept
        await echo(reader, "by delegation")
        # It was written down.
        await lab.kill(worker)
        worker.arguments = ()
        await lab.start_node(worker)
        await echo(client, "started again")
        # Off for longer than its certificate lasts, it asks at an enrolment port.
        await lab.kill(worker)
        identity = Identity.load(worker.home.identity)
        ends_in = -timedelta(days=3)
        ended = certificate_ending(new.home, identity, ends_in=ends_in, is_node=True)
        put_node_credentials(worker, ended)
        worker.arguments = ("--enrolment", f"127.0.0.1:{new.enrolment_port}")
        await lab.start_node(worker)
        await echo(client, "renewed")

        await lab.add_node(client, lab.make_node("worker-2"))
        await lab.add_node(client, lab.make_node("master-10"))
        await sealed_to(lab.nodes[-1])
        operator = await join_cluster(
            Home(outside / "new-operator"),
            NodeSettings(name="new-operator", role="client"),
            token=made["operator_token"],
            enrolment=made["enrolment_endpoints"][0],
        )
        async with Client.from_settings(operator.profile) as newcomer:
            await newcomer.propose_config({"user.by": "the new operator"})
        health = await health_of(lab, new)
        assert all(check.ok for check in health.checks), health.checks


def no_secret_in(data: bytes, lab: Lab, authority: Identity, cas: list[bytes]) -> None:
    """Nothing of what opens anything is in a backup; what is no secret is in the clear."""
    needles = dict.fromkeys(spellings(authority.private_key.private_bytes_raw()), "authority")
    for der in cas:
        needles |= dict.fromkeys(spellings(secret_of(load_der_private_key(der, None))), "CA")
    for path in lab.root.rglob("*.key"):
        secret = secret_of(load_pem_private_key(path.read_bytes(), None))
        needles |= dict.fromkeys(spellings(secret), str(path))
    assert len(set(needles.values())) > 5
    needles[PASSPHRASE.encode()] = "passphrase"
    assert found(needles, data) == set()
    assert b"user.kept" in data
    assert b"before" in data


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
    """What `recover keys` had left was tried alone once, though the master's own key opened."""
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
