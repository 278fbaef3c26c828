"""A cluster of processes to break: each node on a disk of its own if asked, or in a namespace."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode

DISK_MIB: Final = 64
RAFT_SNAPSHOT_ENTRIES: Final = "200"
"""So that snapshots, and their transfer, are nothing rare."""


def run(*command: str) -> str:
    """Run a program of the system; its words are in the error if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Lab(LocalCluster):
    """The cluster, and what can be done to its nodes."""

    def __init__(self, root: Path, *, disks: bool = False) -> None:
        """Keep everything under `root`; with `disks`, each node on an ext4 of its own."""
        super().__init__(root)
        os.environ["IPFS_CLUSTER_NODE_RAFT_SNAPSHOT_ENTRIES"] = RAFT_SNAPSHOT_ENTRIES
        self._disks = disks
        self._mounted: set[str] = set()

    def make_node(self, name: str) -> LocalNode:
        """Say where a node lives; its disk is made."""
        node = super().make_node(name)
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
        node.home = type(node.home)(place / "home")

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
