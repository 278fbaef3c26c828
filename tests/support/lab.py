"""A cluster of processes that loses masters, keys and operators."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode, command
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_mint import sign_delegation
from ipfs_cluster_node.core.authorization import TASK_SUBMIT
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.model import Liveness
from ipfs_cluster_node.core.views import ListedNode
from tests.support.certificates import cluster_keys
from tests.support.nodes import until
from tests.support.people import Person, join
from tests.support.virtual_time import now_ms

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


def error_of(done: "subprocess.CompletedProcess[str]") -> Mapping[str, str]:
    assert done.returncode != 0, done.stdout
    error: Mapping[str, str] = json.loads(done.stderr.splitlines()[-1])["error"]
    return error


async def echo(client: Client, text: str) -> str:
    task_id = await client.submit_task("echo", text)
    ended = (await client.wait_tasks([task_id], timeout=ENDED))[task_id]
    assert ended.status.result is not None
    assert ended.status.result.data == text.encode()
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
    """A client to which the operator has delegated more, and the CID of that delegation."""
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
