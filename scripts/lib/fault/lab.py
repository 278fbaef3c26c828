"""A cluster of processes to break: each node on a disk of its own if asked, or in a namespace."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.errors import ClusterError, Reason
from scripts.lib.fault.switch import NETWORK

DISK_MIB: Final = 64
NODES_MAX: Final = 24
"""Namespaces that are made, whether they are used or not."""
RAFT_SNAPSHOT_ENTRIES: Final = "200"
"""So that snapshots, and their transfer, are nothing rare."""


def run(*command: str) -> str:
    """Run a program of the system; its words are in the error if it fails."""
    done = subprocess.run(
        command, input="", capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Net:
    """A namespace for each node, and a switch between them and this process.

    What goes from one node to another can be cut or made bad, each direction by itself; this
    process, and so its clients, reach every node always.
    """

    def __init__(self) -> None:
        """Make the namespaces; this process is in a network namespace of its own already."""
        self._spaces = [f"fault-{os.getpid()}-{number}" for number in range(NODES_MAX)]
        for space in self._spaces:
            run("ip", "netns", "add", space)
        self._switch = subprocess.Popen(
            [sys.executable, "-m", "scripts.lib.fault.switch", *self._spaces],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._switch.stdout is not None
        if self._switch.stdout.readline() != b"ready\n":
            raise RuntimeError("the switch between the namespaces did not start")
        self._ports: dict[str, int] = {}

    def add(self, node: LocalNode) -> None:
        """Give a node its namespace and address."""
        number = len(self._ports)
        self._ports[node.name] = number + 2  # 1 is this process.
        node.host = f"{NETWORK}.{number + 2}"
        node.prefix = ("ip", "netns", "exec", self._spaces[number])

    @property
    def has_room(self) -> bool:
        """Whether one more node may be added; removed ones keep their namespace."""
        return len(self._ports) < len(self._spaces)

    def spoil(self, sender: LocalNode, receiver: LocalNode, **rule: float) -> None:
        """Have one direction lose, delay, double or slow packets: the fields of `Rule`."""
        ends = {"from": self._ports[sender.name], "to": self._ports[receiver.name]}
        self._say({**ends, **rule})

    def cut(self, sender: LocalNode, receiver: LocalNode) -> None:
        """Let nothing pass from one node to another."""
        self.spoil(sender, receiver, loss=1.0)

    def heal(self) -> None:
        """Let everything pass."""
        self._say({})

    def touched(self) -> int:
        """How many packets were lost, late or doubled since this was asked last."""
        assert self._switch.stdout is not None
        self._say({"count": True})
        return int(self._switch.stdout.readline())

    def _say(self, rule: Mapping[str, float]) -> None:
        assert self._switch.stdin is not None
        self._switch.stdin.write(json.dumps(rule).encode() + b"\n")
        self._switch.stdin.flush()

    def close(self) -> None:
        """Remove the namespaces."""
        assert self._switch.stdin is not None
        self._switch.stdin.close()
        self._switch.wait(timeout=10)
        for space in self._spaces:
            with suppress(RuntimeError):
                run("ip", "netns", "delete", space)


class Lab(LocalCluster):
    """The cluster, and what can be done to its nodes."""

    def __init__(
        self, root: Path, *, disks: bool = False, net: Net | None = None, syncs: bool = True
    ) -> None:
        """Keep everything under `root`.

        Args:
            root: A new directory.
            disks: Whether each node is on an ext4 of its own.
            net: Where each node has a network namespace of its own; None for loopback.
            syncs: Whether a sync is one; else it does nothing, and says that it was done.
        """
        super().__init__(root)
        self.net = net
        os.environ["IPFS_CLUSTER_NODE_RAFT_SNAPSHOT_ENTRIES"] = RAFT_SNAPSHOT_ENTRIES
        self._disks = disks
        self._syncs = syncs
        self._mounted: set[str] = set()

    def make_node(self, name: str) -> LocalNode:
        """Say where a node lives; its disk is made."""
        node = super().make_node(name)
        if self.net is not None:
            self.net.add(node)
        if not self._syncs:
            node.prefix = (*node.prefix, "eatmydata")
        if self._disks:
            image = self.root / f"{name}.img"
            with image.open("wb") as file:
                file.truncate(DISK_MIB * 2**20)
            run("mkfs.ext4", "-q", "-F", str(image))
            self.mount(node)
        return node

    async def add_master(self, node: LocalNode) -> None:
        """Let another master join, and start it; safe to repeat after an error."""
        async with self.client() as client:
            await self.add_node(client, node)

    async def check_votes(self, node: LocalNode) -> None:
        """Pass once a master votes.

        Raises:
            ClusterError: It does not yet.
        """
        async with self.client() as client:
            nodes = await client.list_nodes()
        if not any(listed.voter for listed in nodes if listed.node_id == node.node_id):
            raise ClusterError(Reason.MEMBERSHIP_CHANGE_IN_PROGRESS, f"{node.name} has no vote yet")

    async def remove_master(self, node: LocalNode) -> None:
        """Remove a master, and end its process."""
        async with self.client() as client:
            await client.remove_node(node.node_id)
        self.nodes.remove(node)
        if node.runs:
            await self.kill(node)

    async def term(self) -> int:
        """The present term."""
        async with self.client() as client:
            return (await client.get_cluster_status()).term

    def mount(self, node: LocalNode) -> None:
        """Mount a node's disk; only what is synced reaches it for the next five minutes."""
        place = self.root / f"{node.name}.mnt"
        place.mkdir(exist_ok=True)
        run("mount", "-o", "loop,commit=300", str(self.root / f"{node.name}.img"), str(place))
        self._mounted.add(node.name)
        node.home = Home(place / "home")

    def unmount(self, node: LocalNode) -> None:
        """Unmount a node's disk."""
        run("umount", str(self.root / f"{node.name}.mnt"))
        self._mounted.discard(node.name)

    def power_off(self, node: LocalNode) -> None:
        """Cut the power of a node: what it has not synced is gone."""
        run("xfs_io", "-x", "-c", "shutdown", str(self.root / f"{node.name}.mnt"))

    async def cut_power(self, nodes: list[LocalNode]) -> None:
        """Cut the power of several nodes at once, and have their disks back as they were then."""
        for node in nodes:
            self.power_off(node)
        for node in nodes:
            if node.runs:
                await self.kill(node)
        for node in nodes:
            self.unmount(node)
            self.mount(node)

    def pause(self, node: LocalNode, *, paused: bool) -> None:
        """Stop a node's process, or let it go on."""
        if node.process is not None and node.runs:
            node.process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)

    async def stop(self) -> None:
        """Stop every process and give the disks back."""
        for node in self.nodes:
            self.pause(node, paused=False)
        await super().stop()
        for node in self.nodes:
            if node.name in self._mounted:
                with suppress(RuntimeError):
                    self.unmount(node)
        if self.net is not None:
            self.net.close()
