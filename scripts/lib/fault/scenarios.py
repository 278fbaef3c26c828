"""What is done to the nodes; rows of the reliability table in docs/consensus.md."""

import asyncio
import itertools
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.cli.local_cluster import LocalNode
from ipfs_cluster_node.core.errors import ClusterError
from scripts.lib.fault.lab import Lab, run

Pairs = Callable[[LocalNode, list[LocalNode]], list[tuple[LocalNode, LocalNode]]]
"""Who does not reach whom, given the victim and the others."""
CHANGE_SECONDS_MAX: Final = 30.0
"""For a change of the members that is refused while nodes are away."""
CRASH_CALLS: Final = ("write", "pwrite64", "fdatasync", "fsync", "/^rename")
"""The calls that change the files of a log, as strace names them."""
CRASH_HITS: Final = 5
CRASH_SECONDS_MAX: Final = 6.0
"""For a thread to come to the call; a snapshot is made every second or so."""
REPAIR_SECONDS_MAX: Final = 30.0
FAKETIME: Final = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


@dataclass
class Scene:
    """A run: the cluster, chance, and when something was broken."""

    lab: Lab
    rng: random.Random
    ends_at: float
    faults: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What a node did that it must not do."""
    start_seconds_max: float = 0.0
    """How long it took at most until nodes that were started together all listened."""
    hands: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a process ends or starts: a node that leaves is not started again."""

    @property
    def goes_on(self) -> bool:
        """Whether there is time for another fault."""
        return time.monotonic() < self.ends_at

    def note_fault(self) -> None:
        """Something is broken now."""
        self.faults.append(time.monotonic())

    async def leader(self) -> LocalNode | None:
        """The node that leads, if one answers."""
        async with self.lab.client() as client:
            try:
                async with asyncio.timeout(5):
                    return await self.lab.leader(client)
            except Exception:
                return None

    async def victim(self) -> LocalNode:
        """The leader in half the cases, else any node."""
        leader = await self.leader()
        if leader is not None and self.rng.random() < 0.5:
            return leader
        return self.rng.choice(self.lab.nodes)

    async def start(self, nodes: list[LocalNode]) -> None:
        """Start nodes that together are a majority, or may be."""
        began = time.monotonic()
        await asyncio.gather(*(self.lab.start_node(node) for node in nodes))
        self.start_seconds_max = max(self.start_seconds_max, time.monotonic() - began)

    async def remove(self, node: LocalNode) -> None:
        """Remove a master; if it leads, another one leads first."""
        async with self.hands:
            if await self.leader() is node:
                async with self.lab.client() as client:
                    await client.transfer_leadership()
            await self.lab.remove_master(node)


async def kill(scene: Scene) -> None:
    """R1: kill -9 of one node every 2 s; it starts again after 0.5 s."""
    while scene.goes_on:
        async with scene.hands:
            node = await scene.victim()
            scene.note_fault()
            await scene.lab.kill(node)
            await asyncio.sleep(0.5)
            await scene.lab.start_node(node)
        await asyncio.sleep(1.5)


async def kill_all(scene: Scene) -> None:
    """R2: kill -9 of all nodes at once."""
    while scene.goes_on:
        scene.note_fault()
        await asyncio.gather(*(scene.lab.kill(node) for node in scene.lab.nodes))
        await scene.start(scene.lab.nodes)
        await asyncio.sleep(4)


async def powerloss(scene: Scene) -> None:
    """R3: power loss of one node, of a majority, of all; what was not synced is gone."""
    count = 0
    while scene.goes_on:
        nodes = scene.rng.sample(scene.lab.nodes, 1 + count % 3)
        count += 1
        scene.note_fault()
        await scene.lab.cut_power(nodes)
        await scene.start(nodes)
        await asyncio.sleep(3)


async def stop(scene: Scene) -> None:
    """R9: a node is stopped (SIGSTOP) for 3 s, and goes on as if nothing had been."""
    while scene.goes_on:
        node = await scene.victim()
        scene.note_fault()
        scene.lab.pause(node, paused=True)
        await asyncio.sleep(3)
        scene.lab.pause(node, paused=False)
        await asyncio.sleep(2)


async def diskfull(scene: Scene) -> None:
    """R6: the leader's disk is full for 10 s; its node says so, and is started again."""
    while scene.goes_on:
        node = await scene.leader()
        if node is None:
            await asyncio.sleep(0.2)
            continue
        filler = node.home.path.parent / "filler"
        scene.note_fault()
        _fill(filler)
        await asyncio.sleep(10)
        scene.notes.append(await _health_of(scene, node))
        filler.unlink()
        run("sync", "-f", str(filler.parent))  # Only then ext4 gives the blocks back.
        await _restart(scene, node)
        await asyncio.sleep(3)


async def diskerror(scene: Scene) -> None:
    """R5: fsync fails once with EIO; the node serves no more until it is started again."""

    async def act(node: LocalNode, pid: int) -> None:
        with _strace(pid, "fdatasync,fsync", "error=EIO:when=1"):
            await asyncio.sleep(3)
        scene.notes.append(await _health_of(scene, node))
        await _restart(scene, node)
        await asyncio.sleep(2)

    await _each(scene, act)


async def slowdisk(scene: Scene) -> None:
    """R8: each fsync of a node takes 0.2 s longer, for 6 s."""

    async def act(_node: LocalNode, pid: int) -> None:
        with _strace(pid, "fdatasync,fsync", "delay_enter=200000"):
            await asyncio.sleep(6)
        await asyncio.sleep(1)

    await _each(scene, act)


async def crashpoints(scene: Scene) -> None:
    """R4: SIGKILL right before the nth write, sync or rename of a file of a node's log.

    The nth of one thread: strace counts so.
    """
    came: Counter[str] = Counter()
    for hit, call in itertools.product(range(1, CRASH_HITS + 1), CRASH_CALLS):
        if not scene.goes_on:
            break
        node = await scene.victim()
        assert node.process is not None
        inject = f"signal=SIGKILL:when={hit}"
        with _strace(node.process.pid, call, inject, _files_of_log(node)), suppress(TimeoutError):
            async with asyncio.timeout(CRASH_SECONDS_MAX):
                await node.process.wait()
        if node.runs:
            continue  # No thread made so many such calls.
        scene.note_fault()
        came[call.strip("/^")] += 1
        await scene.lab.start_node(node)
        await asyncio.sleep(0.5)
    scene.notes.append(", ".join(f"{count} {call}" for call, count in came.items()))


async def damage(scene: Scene) -> None:
    """R7: a bit of a node's log flips while it is down, or a file is cut; it has the log anew."""
    while scene.goes_on:
        node = await scene.victim()
        scene.note_fault()
        await scene.lab.kill(node)
        before = node.home.damaged_logs()
        what = _damage(scene.rng, node.home.raft)
        await scene.lab.start_node(node)
        await _until_votes(scene, node)
        if node.home.damaged_logs()[-1:] == before[-1:]:
            scene.wrong.append(f"{node.name} did not see {what}")


async def clock(scene: Scene) -> None:
    """R15: a node's clock is 300 s off, back or forth, or runs a tenth too fast."""
    while scene.goes_on:
        node = await scene.victim()
        shift = scene.rng.choice(("+300s", "-300s", "+0 x1.1"))
        scene.note_fault()
        await scene.lab.kill(node)
        node.prefix = (
            "env",
            f"LD_PRELOAD={FAKETIME}",
            f"FAKETIME={shift}",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        )
        await scene.lab.start_node(node)
        await asyncio.sleep(5)
        await scene.lab.kill(node)
        node.prefix = ()
        await scene.lab.start_node(node)
        await asyncio.sleep(2)


async def cut(scene: Scene) -> None:
    """R10: one node, the leader in half the cases, is cut off for 6 s."""
    await _cuts(scene, lambda node, others: [p for o in others for p in ((node, o), (o, node))])


async def oneway(scene: Scene) -> None:
    """R11: a node hears nobody, or nobody hears it, for 6 s."""

    def pairs(node: LocalNode, others: list[LocalNode]) -> list[tuple[LocalNode, LocalNode]]:
        deaf = scene.rng.random() < 0.5
        return [(o, node) if deaf else (node, o) for o in others]

    await _cuts(scene, pairs)


async def partial(scene: Scene) -> None:
    """R12: two nodes do not hear each other, the third hears both, for 6 s."""

    def pairs(node: LocalNode, others: list[LocalNode]) -> list[tuple[LocalNode, LocalNode]]:
        other = scene.rng.choice(others)
        return [(node, other), (other, node)]

    await _cuts(scene, pairs)


async def loss(scene: Scene) -> None:
    """R13: every link between nodes loses packets: 5 % at first, then 20 %."""
    await _spoil_all(scene, {"loss": 0.05}, {"loss": 0.2})


async def delay(scene: Scene) -> None:
    """R13: every packet between nodes is late by 0 to 200 ms, so that they overtake each other."""
    await _spoil_all(scene, {"jitter": 0.2})


async def duplicate(scene: Scene) -> None:
    """R13: a tenth of the packets between nodes comes twice, with up to 10 ms between."""
    await _spoil_all(scene, {"duplicate": 0.1, "jitter": 0.01})


async def slowlink(scene: Scene) -> None:
    """R13: every link between nodes takes 1 Mbit/s."""
    await _spoil_all(scene, {"bytes_per_second": 125_000.0})


async def members(scene: Scene) -> None:
    """R18: masters are added and removed while nodes are killed every 2 s."""
    await _change_members(scene, kill)


async def members_cut(scene: Scene) -> None:
    """R18: masters are added and removed while nodes are cut off."""
    await _change_members(scene, cut)


async def control_stale_reads(scene: Scene) -> None:
    """R24: clients take stale reads for true ones; the checks must see it."""
    await cut(scene)


async def control_lying_disk(scene: Scene) -> None:
    """R24: syncs do nothing, and all lose power; the checks must see what is lost."""
    for node in scene.lab.nodes:
        run("sync", "-f", str(node.home.path))  # So that they can start again at all.
    await asyncio.sleep(2)
    scene.note_fault()
    await scene.lab.cut_power(scene.lab.nodes)
    await scene.start(scene.lab.nodes)


async def _spoil_all(scene: Scene, *rules: dict[str, float]) -> None:
    net, rest = scene.lab.net, scene.ends_at - time.monotonic()
    assert net is not None
    for rule in rules:
        scene.note_fault()
        for sender, receiver in itertools.permutations(scene.lab.nodes, 2):
            net.spoil(sender, receiver, **rule)
        await asyncio.sleep(rest / len(rules))
    net.heal()


async def _change_members(
    scene: Scene, trouble: Callable[[Scene], Coroutine[Any, Any, None]]
) -> None:
    """Have a fourth master join and one of the others leave, over and over, while trouble goes on.

    The first master stays: tokens are redeemed there. At the end three are members, and vote.
    """
    async with asyncio.TaskGroup() as group:
        group.create_task(trouble(scene))
        changes = 0
        while scene.goes_on:
            await _until_done(scene.lab.add_master, scene.lab.make_node(f"master-{4 + changes}"))
            leaving = scene.rng.choice(scene.lab.nodes[1:-1])
            await _until_done(scene.remove, leaving)
            changes += 1
    scene.notes.append(f"{changes} masters replaced")


async def _until_done(change: Callable[[LocalNode], Awaitable[None]], node: LocalNode) -> None:
    """Repeat what is refused while nodes are away."""
    ends = time.monotonic() + CHANGE_SECONDS_MAX
    while True:
        try:
            await change(node)
        except ClusterError:
            if time.monotonic() > ends:
                raise
            await asyncio.sleep(0.3)
        else:
            return


async def _cuts(scene: Scene, pairs: Pairs) -> None:
    net = scene.lab.net
    assert net is not None
    while scene.goes_on:
        node = await scene.victim()
        scene.note_fault()
        for sender, receiver in pairs(node, [n for n in scene.lab.nodes if n is not node]):
            net.cut(sender, receiver)
        await asyncio.sleep(6)
        net.heal()
        await asyncio.sleep(3)


async def _each(scene: Scene, act: Callable[[LocalNode, int], Awaitable[None]]) -> None:
    while scene.goes_on:
        node = await scene.victim()
        if node.process is None or not node.runs:
            await scene.lab.start_node(node)
            continue
        scene.note_fault()
        await act(node, node.process.pid)


async def _restart(scene: Scene, node: LocalNode) -> None:
    if node.runs:
        await scene.lab.kill(node)
    await scene.lab.start_node(node)


async def _health_of(scene: Scene, node: LocalNode) -> str:
    """What a node that can't write says of itself; the check that failed."""
    if not node.runs:
        return f"{node.name}: its process has ended"
    async with scene.lab.client() as client:
        try:
            health = await client.get_health(node.address, node.node_id)
        except Exception as error:
            return f"{node.name}: does not answer ({error})"
    failed = [check.detail for check in health.checks if check.name == "log" and not check.ok]
    return f"{node.name}: {failed[0] if failed else 'says that its log is well'}"


def _files_of_log(node: LocalNode) -> list[Path]:
    """The files that a node's log has, or will have soon."""
    raft = node.home.raft
    newest = max(int(path.name[-8:]) for path in raft.glob("journal-????????"))
    names = [f"journal-{number:08d}" for number in range(1, newest + 3)]
    names += ["snapshot", "snapshot.part", "synced"]
    return [raft, *(raft / name for name in names), *(raft / f"{name}.new" for name in names)]


def _damage(rng: random.Random, raft: Path) -> str:
    """Flip a bit of a file of a log, or cut its end off; returns what was done."""
    path = rng.choice([raft / "snapshot", raft / "voter", *sorted(raft.glob("journal-????????"))])
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    if rng.random() < 0.5:
        path.write_bytes(data[:place])
        return f"{path.name} cut at {place} of {len(data)}"
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"a flipped bit at {place} of {len(data)} of {path.name}"


async def _until_votes(scene: Scene, node: LocalNode) -> None:
    """Wait until a node is a voter again, and the others know it.

    Raises:
        TimeoutError: It is none after `REPAIR_SECONDS_MAX`.
    """
    async with asyncio.timeout(REPAIR_SECONDS_MAX), scene.lab.client() as client:
        while True:
            with suppress(ClusterError):
                listed = {each.node_id for each in await client.list_nodes() if each.voter}
                health = await client.get_health(node.address, node.node_id)
                if node.node_id in listed and set(health.raft.voters) == listed:
                    return
            await asyncio.sleep(0.2)


def _fill(path: os.PathLike[str]) -> None:
    with open(path, "wb", buffering=0) as file:  # noqa: PTH123
        piece = bytes(2**20)
        while piece:
            try:
                file.write(piece)
            except OSError:
                piece = piece[: len(piece) // 16]


class _strace:  # noqa: N801
    """Injects faults into the calls of a running process."""

    def __init__(self, pid: int, calls: str, inject: str, files: Iterable[Path] = ()) -> None:
        """Inject into all calls, or into those that touch one of `files`."""
        options = ("-f", "-q", "-o", "/dev/null", "-p", str(pid))
        what = ("-e", f"trace={calls}", "-e", f"inject={calls}:{inject}")
        where = (each for path in files for each in ("-P", str(path)))
        self._command = ("strace", *options, *what, *where)

    def __enter__(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=10)


SCENARIOS: Final = {
    "kill": kill,
    "kill-all": kill_all,
    "powerloss": powerloss,
    "stop": stop,
    "diskfull": diskfull,
    "diskerror": diskerror,
    "slowdisk": slowdisk,
    "crashpoints": crashpoints,
    "damage": damage,
    "clock": clock,
    "cut": cut,
    "oneway": oneway,
    "partial": partial,
    "loss": loss,
    "delay": delay,
    "duplicate": duplicate,
    "slowlink": slowlink,
    "members": members,
    "members-cut": members_cut,
    "control-stale-reads": control_stale_reads,
    "control-lying-disk": control_lying_disk,
}
NEED_NET: Final = frozenset(
    {"cut", "oneway", "partial", "loss", "delay", "duplicate", "slowlink", "members-cut"}
    | {"control-stale-reads"}
)
NEED_DISKS: Final = frozenset({"powerloss", "diskfull", "control-lying-disk"})
NEED_STRACE: Final = frozenset({"diskerror", "slowdisk", "crashpoints"})
DAMAGING: Final = frozenset({"damage", "control-lying-disk"})
"""After which a node may find its log damaged."""
CONTROLS: Final = frozenset(name for name in SCENARIOS if name.startswith("control-"))
