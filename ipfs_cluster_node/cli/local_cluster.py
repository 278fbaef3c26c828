"""Runs the nodes of a cluster as processes of this machine: for `dev`, the demo and the tests."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.config.profiles import PROFILES_VARIABLE
from ipfs_cluster_node.core.errors import ClusterError, Reason

READY_SECONDS_MAX: Final = 30.0
STOP_SECONDS_MAX: Final = 10.0

Listener = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class LocalNode:
    """One node and its process."""

    name: str
    role: str
    home: Path
    port: int
    node_id: str = ""
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @property
    def runs(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.returncode is None


class LocalCluster:
    """A cluster of processes on loopback."""

    def __init__(
        self, root: Path, *, profile_name: str = "default", profiles: Path | None = None
    ) -> None:
        """Keep everything under `root`."""
        self.root = root
        self._profile_name = profile_name
        self._environment = dict(os.environ)
        if profiles is not None:
            self._environment[PROFILES_VARIABLE] = str(profiles)
        self._enrolment_port = _free_port()
        self.nodes: list[LocalNode] = []

    async def start(
        self, *, masters: int, workers: int, on_event: Listener = lambda _event: None
    ) -> None:
        """Make or reopen the nodes, and start each; returns once all are members and alive.

        Raises:
            ClusterError: What a node said when it did not start.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(1, masters + workers + 1):
            role = "master" if number <= masters else "worker"
            name = f"{role}-{number if role == 'master' else number - masters}"
            await self.add(name, role)
            on_event({"event": "up", "name": name})

    async def add(self, name: str, role: str) -> LocalNode:
        """Make a node, unless its home is there already, and start it."""
        node = LocalNode(name, role, self.root / name, _free_port())
        where = ("--home", str(node.home), "--name", name, "--bind", f"127.0.0.1:{node.port}")
        if not (node.home / "config.toml").exists():
            if not self.nodes:
                enrolment = ("--enrolment-bind", f"127.0.0.1:{self._enrolment_port}")
                profile = ("--profile-name", self._profile_name)
                made = await self.run("init", *where, *enrolment, *profile, "--json")
            else:
                token = await self.run(
                    "--profile", self._profile_name, "token", "create", "--role", role, "--json"
                )
                made = await self.run(
                    "join",
                    json.loads(token)["token"],
                    *where,
                    "--enrolment",
                    f"127.0.0.1:{self._enrolment_port}",
                    "--json",
                )
            node.node_id = json.loads(made)["node_id"]
        self.nodes.append(node)
        await self.start_node(node)
        await self._until_member(node)
        return node

    async def start_node(self, node: LocalNode) -> None:
        """Start a node's process; returns once it listens."""
        bind = ("--bind", f"127.0.0.1:{node.port}")
        if node is self.nodes[0]:
            bind += ("--enrolment-bind", f"127.0.0.1:{self._enrolment_port}")
        with (node.home / "log").open("ab") as log:
            node.process = await asyncio.create_subprocess_exec(
                *_command("serve", "--home", str(node.home), *bind),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        assert node.process.stdout is not None
        async with asyncio.timeout(READY_SECONDS_MAX):
            line = await node.process.stdout.readline()
        if not line:
            said = (node.home / "log").read_text(errors="replace").strip().splitlines()
            raise ClusterError(
                Reason.INTERNAL, f"{node.name} did not start: {said[-1] if said else 'no word'}"
            )
        node.node_id = json.loads(line)["node_id"]

    async def _until_member(self, node: LocalNode) -> None:
        async with asyncio.timeout(READY_SECONDS_MAX):
            while True:
                listed = json.loads(
                    await self.run("--profile", self._profile_name, "node", "list", "--json")
                )
                mine = next((n for n in listed if n["node_id"] == node.node_id), {})
                votes = mine.get("voter") or node.role != "master"
                if mine.get("liveness") == "NODE_LIVENESS_ALIVE" and votes:
                    return
                await asyncio.sleep(0.1)

    def kill(self, node: LocalNode) -> None:
        """End a node's process with SIGKILL."""
        assert node.process is not None
        node.process.send_signal(signal.SIGKILL)

    async def stop(self) -> None:
        """Stop every process."""
        running = [node.process for node in self.nodes if node.runs and node.process is not None]
        for process in running:
            with suppress(ProcessLookupError):
                process.terminate()
        for process in running:
            try:
                async with asyncio.timeout(STOP_SECONDS_MAX):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    async def run(self, *arguments: str) -> str:
        """Run a command of the command line; returns what it printed.

        Raises:
            ClusterError: What it said when it failed.
        """
        process = await asyncio.create_subprocess_exec(
            *_command(*arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        out, err = await process.communicate()
        if process.returncode:
            raise ClusterError(Reason.INTERNAL, err.decode(errors="replace").strip())
        return out.decode()


def _command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "ipfs_cluster_node", *arguments)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
