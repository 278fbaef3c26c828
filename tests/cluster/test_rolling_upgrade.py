"""Two releases in one cluster: a command that only the newer one knows waits for the last voter."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from ipfs_cluster_node.cluster import consensus as leadership_module
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.features import Feature, not_ready
from ipfs_cluster_node.core.ids import did_from_node_id
from ipfs_cluster_node.core.model import Principal, Role
from tests.support.replicas import ReplicaCluster, ReplicaHost
from tests.support.virtual_time import now_ms

NEWER_KEY: Final = "user.newer"
NEWER: Final = c.ProposeConfig(values={NEWER_KEY: "1"})
"""A stand-in for a command of release 0.2.0."""


class Machine(ReplicatedStateMachine):
    """Counts as the machines that `ReplicaCluster` waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[bytes] = []

    def apply(self, index: int, command: bytes) -> Accepted | Rejected:
        self.commands.append(command)
        return super().apply(index, command)


class OlderMachine(Machine):
    def apply(self, index: int, command: bytes) -> Accepted | Rejected:
        if NEWER_KEY.encode() in command:
            raise ClusterError(Reason.RELEASE_TOO_OLD, "install the newer release")
        return super().apply(index, command)


@pytest.fixture(autouse=True)
def two_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    feature = Feature(
        name="newer settings",
        least_release=(0, 2, 0),
        is_used_by=lambda body: isinstance(body, c.ProposeConfig) and NEWER_KEY in body.values,
    )
    monkeypatch.setattr(
        leadership_module, "not_ready", lambda body, versions: not_ready(body, versions, [feature])
    )


def leadership_of(host: ReplicaHost) -> Consensus:
    peers: Any = SimpleNamespace(leader=None, endpoints=lambda _node: ())
    machine: Any = host.machine
    consensus = Consensus(host.node_id, peers=peers, now_ms=now_ms)
    consensus.use_log(machine, host.replica)
    return consensus


async def register(leader: Consensus, host: ReplicaHost, version: str) -> None:
    await leader.propose(
        c.RegisterNode(
            node_id=host.node_id, endpoints=(), task_types=(), slot_count=0, version=version
        )
    )


@pytest.mark.asyncio
async def test_a_newer_command_is_refused_until_every_voter_knows_it(tmp_path: Path) -> None:
    async with ReplicaCluster(tmp_path, 3, machine=Machine) as cluster:  # type: ignore[arg-type]
        leading = await cluster.leader()
        leader = leadership_of(leading)
        old = next(host for host in cluster.hosts.values() if host is not leading)
        await old.stop()
        cluster.machine = OlderMachine  # type: ignore[assignment]
        await old.start()
        masters = tuple(
            Principal(
                did=did_from_node_id(node_id), name=f"m{number}", role=Role.MASTER,
                incarnation=1, enrolled_at_ms=1, liveness_at_ms=1,
            )
            for number, node_id in enumerate(cluster.hosts)
        )  # fmt: skip
        await leader.propose(
            c.BootstrapCluster(
                cluster_id="id", cluster_name="n", cluster_did=masters[0].did, principals=masters
            )
        )
        with pytest.raises(ClusterError, match="runs an unknown version") as raised:
            await leader.propose(NEWER)
        assert raised.value.reason is Reason.FEATURE_NOT_READY
        for host in cluster.hosts.values():
            await register(leader, host, "0.1.0" if host is old else "0.2.0")
        with pytest.raises(ClusterError, match=f"{old.node_id} runs 0.1.0; upgrade them") as raised:
            await leader.propose(NEWER)
        # Everything else goes on, on the older one too.
        await leader.propose(c.ProposeConfig(values={"user.a": "1"}))
        await cluster.until_equal(5)
        assert not old.task.done()

        await old.stop()
        cluster.machine = Machine  # type: ignore[assignment]
        await old.start()
        await register(leader, old, "0.2.0")
        await leader.propose(NEWER)
        await cluster.until_equal(7)
        machines: list[Any] = [host.machine for host in cluster.hosts.values()]
        assert {each.state.settings.text(NEWER_KEY) for each in machines} == {"1"}
        assert not old.task.done()
