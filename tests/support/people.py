"""Clients of a running cluster, each with a home, a profile and an identity of its own."""

import secrets
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.ucan_mint import sign_delegation
from ipfs_cluster_node.config.credentials import read_credentials
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import Profile
from ipfs_cluster_node.config.settings import NodeSection
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.node.joining import join_cluster

HOUR_S: Final = 3600
TEAM: Final = [["like", ".namespace", "team-a/*"]]
"""A policy: the namespaces of one team."""


@dataclass(frozen=True)
class Person:
    identity: Identity
    profile: Profile

    @property
    def did(self) -> Did:
        return self.identity.did

    @property
    def tls(self) -> ClientTls:
        profile = self.profile
        kept = read_credentials(profile.ca, profile.certificate, profile.key)
        return ClientTls(kept.ca_pem, kept.certificate_pem, kept.key_pem)

    def client(self, *, ucan: str = "") -> Client:
        return Client.from_settings(self.profile, ucan=ucan)


async def join(cluster: LocalCluster, directory: Path, grant: str) -> Person:
    """Enrol a client."""
    name = f"p-{secrets.token_hex(4)}"
    async with cluster.client() as operator:
        token = await operator.create_join_token("client", grant=grant)
    home = Home(directory / name)
    made = await join_cluster(
        home,
        NodeSection(name=name, role="client"),
        token=token.token,
        enrolment=f"127.0.0.1:{cluster.enrolment_port}",
    )
    return Person(Identity.load(home.identity), made.profile)


async def strip(cluster: LocalCluster, person: Person) -> None:
    """Revoke all that a client was granted when it joined."""
    async with cluster.client() as operator:
        for delegation in await operator.list_delegations(audience=person.did):
            await operator.revoke_delegation(delegation.cid)


def signed(
    issuer: Identity,
    audience: Did,
    command: str,
    cluster_did: str,
    policy: Sequence[Any] = (),
    *,
    ends_in_s: int = HOUR_S,
) -> bytes:
    """A delegation about a cluster."""
    return sign_delegation(
        issuer.private_key,
        audience=audience,
        subject=Did(cluster_did),
        command=command,
        policy=policy,
        expires_s=int(time.time()) + ends_in_s,
    )


async def refused(call: Awaitable[Any]) -> ClusterError:
    """The error that a call must end with."""
    with pytest.raises(ClusterError) as caught:
        await call
    return caught.value
