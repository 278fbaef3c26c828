"""A cluster of processes to break: each node on a disk of its own if asked, or in a namespace."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.config.home import Home

DISK_MIB: Final = 64
RAFT_SNAPSHOT_ENTRIES: Final = "200"
"""So that snapshots, and their transfer, are nothing rare."""


def run(*command: str) -> str:
    """Run a program of the system; its words are in the error if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Net:
    """A bridge in this process's network namespace, and a namespace on it for each node.

    What goes from one node to another can be cut, each direction by itself; this process, and so
    its clients, reach every node always.
    """

    def __init__(self) -> None:
        """Make the bridge; this process is in a network namespace of its own already."""
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "addr", "add", "10.77.0.254/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        run("nft", "add", "table", "bridge", "lab")
        chain = "{ type filter hook forward priority 0; }"
        run("nft", "add", "chain", "bridge", "lab", "cuts", chain)
        self._ports: dict[str, str] = {}

    def add(self, node: LocalNode) -> None:
        """Give a node its namespace and address."""
        number = len(self._ports) + 1
        space, port = f"fault-{os.getpid()}-{number}", f"p{number}"
        run("ip", "netns", "add", space)
        run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "link", "set", port, "master", "br0", "up")
        run("ip", "-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "eth0", "up")
        run("ip", "-n", space, "link", "set", "lo", "up")
        node.host = f"10.77.0.{number}"
        node.prefix = ("ip", "netns", "exec", space)
        self._ports[node.name] = port

    def cut(self, sender: LocalNode, receiver: LocalNode) -> None:
        """Let nothing pass from one node to another."""
        ends = ("iifname", self._ports[sender.name], "oifname", self._ports[receiver.name])
        run("nft", "add", "rule", "bridge", "lab", "cuts", *ends, "drop")

    def heal(self) -> None:
        """Let everything pass."""
        run("nft", "flush", "chain", "bridge", "lab", "cuts")

    def close(self) -> None:
        """Remove the namespaces; the bridge goes with this process's own."""
        for number in range(1, len(self._ports) + 1):
            with suppress(RuntimeError):
                run("ip", "netns", "delete", f"fault-{os.getpid()}-{number}")


class Lab(LocalCluster):
    """The cluster, and what can be done to its nodes."""

    def __init__(self, root: Path, *, disks: bool = False, net: Net | None = None) -> None:
        """Keep everything under `root`.

        Args:
            root: A new directory.
            disks: Whether each node is on an ext4 of its own.
            net: Where each node has a network namespace of its own; None for loopback.
        """
        super().__init__(root)
        self.net = net
        os.environ["IPFS_CLUSTER_NODE_RAFT_SNAPSHOT_ENTRIES"] = RAFT_SNAPSHOT_ENTRIES
        self._disks = disks
        self._mounted: set[str] = set()

    def make_node(self, name: str) -> LocalNode:
        """Say where a node lives; its disk is made."""
        node = super().make_node(name)
        if self.net is not None:
            self.net.add(node)
        if self._disks:
            image = self.root / f"{name}.img"
            with image.open("wb") as file:
                file.truncate(DISK_MIB * 2**20)
            run("mkfs.ext4", "-q", "-F", str(image))
            self.mount(node)
        return node

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
