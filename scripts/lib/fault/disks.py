"""Faults of disks and of what is on them."""

import asyncio
import itertools
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from ipfs_cluster_node.cli.local_cluster import LocalNode
from ipfs_cluster_node.core.errors import ClusterError
from scripts.lib.fault.lab import run
from scripts.lib.fault.scene import Scene

CRASH_CALLS: Final = ("write", "pwrite64", "fdatasync", "fsync", "/^rename")
"""The calls that change the files of a log, as strace names them."""
CRASH_HITS: Final = 5
CRASH_SECONDS_MAX: Final = 6.0
"""For a thread to come to the call; a snapshot is made every second or so."""
REPAIR_SECONDS_MAX: Final = 30.0
WELL_SECONDS_MAX: Final = 25.0
"""The longest pause between two tries, and what a try takes."""
SLOW_SYNC_SECONDS: Final = (2.0, 0.2)
SLOW_CASE_SECONDS_MIN: Final = 6.0
SLOWER_MAX: Final = 2.0
SEEN_SECONDS_MIN: Final = 0.1
"""A write that waited for the slow sync takes longer; below it there is only noise to compare."""
CALM_SECONDS: Final = 3.0
TRACER_SECONDS: Final = 0.5
"""Until it is attached."""
DEGRADED_SECONDS_MAX: Final = 5.0


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


async def diskfull(scene: Scene) -> None:
    """R6: the leader's disk is full for 10 s; its node says so, and goes on by itself."""
    while scene.goes_on:
        node = await scene.leader_for_sure()
        filler = node.home.path.parent / "filler"
        scene.note_fault()
        _fill(filler)
        await asyncio.sleep(10)
        scene.notes.append(await _log_words(scene, node))
        filler.unlink()
        run("sync", "-f", str(filler.parent))  # Only then ext4 gives the blocks back.
        await _until_log_is_well(scene, node)
        await asyncio.sleep(3)


async def diskerror(scene: Scene) -> None:
    """R5: fsync fails once with EIO; the node serves no more until it is started again."""

    async def act(node: LocalNode, pid: int) -> None:
        with _strace(pid, "fdatasync,fsync", "error=EIO:when=1") as traced:
            await asyncio.sleep(3)
        scene.check_happened(traced.injected, f"EIO at a sync of {node.name}")
        scene.notes.append(await _log_words(scene, node))
        await scene.restart(node)
        await asyncio.sleep(2)

    await _each(scene, act)


async def slowdisk(scene: Scene) -> None:
    """R8: each sync of the leader, or of a follower, takes 2 s or 0.2 s longer.

    The node says within `DEGRADED_SECONDS_MAX` that it is degraded. A slow follower must not make
    writes slow: their 99th percentile stays below twice that with the same tracer on the same
    node, and no delay.
    """
    cases = list(itertools.product(SLOW_SYNC_SECONDS, (True, False)))
    seconds = scene.seconds_of_case(len(cases), SLOW_CASE_SECONDS_MIN)
    for delay, leads in cases:
        node = await scene.leader_or_follower(leads=leads)
        assert node.process is not None
        pid, sync = node.process.pid, "fdatasync,fsync"
        with _strace(pid, sync, "delay_enter=0"):
            began = time.monotonic() + TRACER_SECONDS
            await asyncio.sleep(TRACER_SECONDS + CALM_SECONDS)
            calm = scene.history.latency(began, time.monotonic())
        scene.note_fault()
        with _strace(pid, sync, f"delay_enter={delay * 1e6:.0f}") as traced:
            began = time.monotonic() + TRACER_SECONDS
            degraded = asyncio.create_task(_until_degraded(scene, node))
            await asyncio.sleep(TRACER_SECONDS)
            unnamed = await _unnamed(scene, node, seconds)
            slow = scene.history.latency(began, time.monotonic())
            told = await degraded
        scene.check_happened(traced.injected, f"slow syncs of {node.name}")
        who = f"{'leader' if leads else 'follower'} {delay:g} s"
        scene.notes.append(f"{who}: degraded after {told:.1f} s, p99 {calm:.3f} to {slow:.3f} s")
        if unnamed and not leads:
            scene.wrong.append(f"{who}: {unnamed} times it named no leader, and one was there")
        if told > DEGRADED_SECONDS_MAX:
            scene.wrong.append(f"{who}: it did not say in time that it is degraded")
        if not leads and slow > max(SLOWER_MAX * calm, SEEN_SECONDS_MIN):
            scene.wrong.append(f"{who}: p99 of writes from {calm:.3f} to {slow:.3f} s")
        await asyncio.sleep(1)


async def _unnamed(scene: Scene, node: LocalNode, seconds: float) -> int:
    """How often a node names no leader meanwhile: what came of it waits for the slow disk."""
    ends, count = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        with suppress(ClusterError):
            count += not (await scene.check(node, "leader")).ok
        await asyncio.sleep(0.1)
    return count


async def _until_degraded(scene: Scene, node: LocalNode) -> float:
    """Seconds until a node says that its log is degraded, or a little over the limit."""
    began = time.monotonic()
    while time.monotonic() - began <= DEGRADED_SECONDS_MAX:
        with suppress(ClusterError):
            if (await scene.check(node, "log")).degraded:
                break
        await asyncio.sleep(0.1)
    return time.monotonic() - began


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


async def control_lying_disk(scene: Scene) -> None:
    """R24: syncs do nothing, and all lose power; the checks must see what is lost."""
    for node in scene.lab.nodes:
        run("sync", "-f", str(node.home.path))  # So that they can start again at all.
    await asyncio.sleep(2)
    scene.note_fault()
    await scene.lab.cut_power(scene.lab.nodes)
    await scene.start(scene.lab.nodes)


async def _each(scene: Scene, act: Callable[[LocalNode, int], Awaitable[None]]) -> None:
    while scene.goes_on:
        node = await scene.victim()
        if node.process is None or not node.runs:
            await scene.lab.start_node(node)
            continue
        scene.note_fault()
        await act(node, node.process.pid)


async def _until_log_is_well(scene: Scene, node: LocalNode) -> None:
    """Wait until a node writes its log again; nobody starts it."""
    began = time.monotonic()
    while time.monotonic() - began <= WELL_SECONDS_MAX:
        with suppress(ClusterError):
            if (await scene.check(node, "log")).ok:
                scene.notes.append(f"{node.name}: well after {time.monotonic() - began:.1f} s")
                return
        await asyncio.sleep(0.2)
    scene.wrong.append(f"{node.name} did not go on by itself once its disk had room")


async def _log_words(scene: Scene, node: LocalNode) -> str:
    """What a node that can't write says of itself."""
    if not node.runs:
        return f"{node.name}: its process has ended"
    try:
        check = await scene.check(node, "log")
    except ClusterError as error:
        return f"{node.name}: does not answer ({error})"
    return f"{node.name}: {'says that its log is well' if check.ok else check.detail}"


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
        self.injected = 0
        """How many calls it changed; known at the end."""
        descriptor, self._output = tempfile.mkstemp(prefix="strace-")
        os.close(descriptor)
        options = ("-f", "-q", "-o", self._output, "-p", str(pid))
        what = ("-e", f"trace={calls}", "-e", f"inject={calls}:{inject}")
        where = (each for path in files for each in ("-P", str(path)))
        self._command = ("strace", *options, *what, *where)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=10)
        output = Path(self._output)
        self.injected = len(re.findall(rb"\((?:INJECTED|DELAYED)\)", output.read_bytes()))
        output.unlink()
