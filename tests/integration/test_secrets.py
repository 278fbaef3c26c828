"""Secrets are in no log, audit record or error, and in no file but their own."""

import base64
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from ipfs_cluster_node.adapters.keys.tokens import parse_token
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSection
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.node.joining import join_cluster
from tests.support.certificates import cluster_keys
from tests.support.clusters import cluster_of
from tests.support.leaks import found, secret_of, spellings
from tests.support.nodes import until

PASSPHRASE: Final = "fifteen-old-elephants-sing"
DEBUG: Final = ("sh", "-c", 'exec "$@" --log-level debug', "sh")
KEY: Final = ".key"


class Verbose(LocalCluster):
    """Logs all that there is to log."""

    def make_node(self, name: str) -> LocalNode:
        node = super().make_node(name)
        node.prefix = DEBUG
        return node


@pytest.mark.asyncio
async def test_no_secret_is_written_but_where_it_belongs() -> None:
    needles: dict[bytes, str] = {PASSPHRASE.encode(): "passphrase"}
    said: list[str] = []
    make = partial(Verbose, recovery_passphrase=PASSPHRASE)
    async with cluster_of(3, 1, make=make) as cluster:
        root = cluster.root.parent
        async with cluster.client() as client:
            await _use(cluster, client, root, needles, said)
        first = cluster.nodes[0].home

        async def sealed() -> bool:
            cluster_keys(first)
            return True

        await until(sealed, seconds=10, what="the keys are kept")
        keys = cluster_keys(first)
        for ca in keys.cas:
            secret = secret_of(load_der_private_key(ca.key_der, None))
            assert secret in ca.key_der
            needles |= dict.fromkeys(spellings(secret), "the CA's key")
        authority = keys.authority.private_key.private_bytes_raw()
        needles |= dict.fromkeys(spellings(authority), "the authority's key")
        await cluster.stop()
        for path in root.rglob("*"):
            if path.suffix == KEY:
                assert path.stat().st_mode & 0o077 == 0, path
                secret = secret_of(load_pem_private_key(path.read_bytes(), None))
                needles |= dict.fromkeys(spellings(secret), str(path.relative_to(root)))
        searched = [p for p in root.rglob("*") if p.is_file() and p.suffix != KEY]
        leaks = {p: found(needles, p.read_bytes()) for p in searched}
        assert {str(p.relative_to(root)): names for p, names in leaks.items() if names} == {}
        assert found(needles, "\n".join(said).encode()) == set()
        # All of it was looked at, and a secret would have been seen.
        looked_at = {path.name for path in searched}
        assert {"log", "audit.jsonl", "authority.sealed", "config.toml"} <= looked_at
        for der in (keys.cas[0].key_der, b"-" + authority):
            for text in (der, b"x" + der.hex().encode(), base64.b64encode(b"ab" + der)):
                assert found(needles, text)


async def _use(
    cluster: LocalCluster, client: Client, root: Path, needles: dict[bytes, str], said: list[str]
) -> None:
    """Enrol, renew, be refused: whatever handles a secret."""
    token = (await client.create_join_token("client", grant="reader")).token
    needles[parse_token(token).secret.encode()] = "join secret"
    enrolment = f"127.0.0.1:{cluster.enrolment_port}"
    settings = NodeSection(name="reader", role="client")
    made = await join_cluster(Home(root / "reader"), settings, token=token, enrolment=enrolment)
    wrong = token[:-32] + "0123456789abcdef" * 2
    needles[wrong[-32:].encode()] = "wrong secret"
    for refused in (token, wrong, wrong[:-1]):
        with pytest.raises(ClusterError) as caught:
            await join_cluster(Home(root / "again"), settings, token=refused, enrolment=enrolment)
        said.append(f"{caught.value.message} {caught.value.metadata}")
    async with Client.from_settings(made.profile) as reader:
        with pytest.raises(ClusterError) as caught:
            await reader.submit_task("echo")
        said.append(f"{caught.value.message} {caught.value.metadata}")
    async with Client.from_settings(made.profile, ucan="not-a-container") as reader:
        with pytest.raises(ClusterError) as caught:
            await reader.list_nodes()
        said.append(f"{caught.value.message} {caught.value.metadata}")
    leader = await cluster.leader(client)
    await client.rotate_certificates(new_root=False)
    await client.list_audit_records(leader.address, leader.node_id)
