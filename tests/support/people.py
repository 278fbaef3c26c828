"""Clients of a running cluster, each with a home, a profile and an identity of its own."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import Profile
from ipfs_cluster_node.config.settings import NodeSettings
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.node.setup import join_cluster


@dataclass(frozen=True)
class Person:
    identity: Identity
    profile: Profile

    @property
    def did(self) -> Did:
        return self.identity.did

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
        NodeSettings(name=name, role="client"),
        token=token.token,
        enrolment=f"127.0.0.1:{cluster.enrolment_port}",
    )
    return Person(Identity.load(home.identity), made.profile)


async def strip(cluster: LocalCluster, person: Person) -> None:
    """Take from a client all that it was let do when it joined."""
    async with cluster.client() as operator:
        for delegation in await operator.list_delegations(audience=person.did):
            await operator.revoke_delegation(delegation.cid)
