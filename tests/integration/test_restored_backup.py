"""A cluster whose masters are all lost, and its backup."""

import json
import shutil
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from ipfs_cluster_node.adapters.keys.certificates import pin_of, read_certificate
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import PROFILES_VARIABLE, ProfileEndpoint, save_profile
from ipfs_cluster_node.config.settings import NodeSection
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.node.joining import join_cluster
from tests.support.certificates import (
    certificate_ending,
    cluster_keys,
    node_credentials,
    put_node_credentials,
)
from tests.support.lab import PASSPHRASE, Lab, alive, echo, error_of, given, sealed_to
from tests.support.leaks import found, secret_of, spellings
from tests.support.nodes import health_of, settings_of


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
        assert int(json.loads(done.stdout)["size_bytes"]) == file.stat().st_size
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
        assert (await client.get_task(task_id)).status.result is not None
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
            NodeSection(name="new-operator", role="client"),
            token=made["operator_token"],
            enrolment=made["enrolment_endpoints"][0],
        )
        async with Client.from_settings(operator.profile) as newcomer:
            await newcomer.propose_config({"user.by": "the new operator"})
        health = await health_of(lab, new)
        assert all(check.ok for check in health.checks), health.checks


def no_secret_in(data: bytes, lab: Lab, authority: Identity, cas: list[bytes]) -> None:
    """A backup contains nothing that opens the keys; what is not secret is not encrypted."""
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
