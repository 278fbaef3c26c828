"""Watches of the state, while leaders change and masters are cut off, killed and installed."""

import asyncio
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from ipfs_cluster_node.cli.local_cluster import LocalNode
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.schemas import STATE_TABLES
from scripts.lib.fault.readers import Reader
from scripts.lib.fault.replay import digests_at
from scripts.lib.fault.scene import Scene

LEAST_A_MINUTE: Final = {
    "leader changes": 10,
    "resumed elsewhere": 20,
    "compacted": 5,
    "reset while watching": 3,
    "stopped": 1,
}
"""What must have happened in a run of 60 s; in a shorter one as much less, but once at least."""
STOPPED_SECONDS: Final = 10.0
CUT_SECONDS: Final = 3.5
"""Longer than a leader takes a silent follower for reachable, and keeps entries for it."""
OLD_ENTRIES: Final = 500
"""Entries behind which a token is older than the last snapshot of any master but the first."""
LONGER_SECONDS_MAX: Final = 60.0
"""A busy machine gets as much longer for what must happen."""
WAIT_SECONDS_MAX: Final = 20.0
WRONG_MAX: Final = 20
"""Differences that are told; there may be thousands."""
KEEPS_ALL: Final = ("env", "IPFS_CLUSTER_NODE_RAFT_SNAPSHOT_ENTRIES=100000000")


def least(seconds: float) -> dict[str, int]:
    """What must have happened in a run of so many seconds."""
    return {name: max(1, round(count * seconds / 60)) for name, count in LEAST_A_MINUTE.items()}


async def watch(scene: Scene) -> None:
    """R26: readers' tables equal the log at every bookmark, whatever happens to the masters.

    The first master keeps its whole log, and is not broken: the log is read from there.
    """
    run = _Run(scene)
    await run.prepare()
    scene.ends_at = time.monotonic() + run.seconds
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for reader in (*run.readers, *run.late):
            group.create_task(reader.run(over))
        work = [group.create_task(run.submit(over)), group.create_task(run.add_files(over))]
        try:
            await run.break_things()
        finally:
            over.set()
            for each in work:
                each.cancel()
    await run.check()


class _Run:
    def __init__(self, scene: Scene) -> None:
        self._scene, self._lab = scene, scene.lab
        self.seconds = scene.ends_at - time.monotonic()
        self._first, *self._others = scene.lab.nodes
        masters = scene.lab.nodes
        self.readers = [
            Reader(self._lab, STATE_TABLES, *masters),
            Reader(self._lab, STATE_TABLES, *reversed(masters)),
            Reader(self._lab, ("tasks", "nodes"), *masters),
            Reader(self._lab, ("config",), *masters),
            # They stay, to see snapshots being installed.
            *(Reader(self._lab, STATE_TABLES, node) for node in self._others),
        ]
        # They are away for long, and go on at a master that was started meanwhile.
        self.late = [Reader(self._lab, STATE_TABLES, *masters) for _ in self._others]
        self._counts: Counter[str] = Counter()
        self._worker = self._lab.make_node("worker-1")

    async def prepare(self) -> None:
        """Have the first master keep its log, and a worker do tasks."""
        self._first.prefix = (*self._first.prefix, *KEEPS_ALL)
        await self._scene.restart(self._first)
        async with self._lab.client() as client:
            await self._lab.add_node(client, self._worker)
        self._lab.nodes.remove(self._worker)  # The others are masters.
        self._install_count = self._installs()

    async def submit(self, over: asyncio.Event) -> None:
        """Submit tasks, and cancel some."""
        async with self._lab.client() as client:
            while not over.is_set():
                with suppress(ClusterError):
                    tasks = [await client.submit_task("echo", b"x") for _ in range(3)]
                    if self._scene.rng.random() < 0.3:
                        await client.cancel_task(tasks[-1])
                await asyncio.sleep(0.1)

    async def add_files(self, over: asyncio.Event) -> None:
        """Add files, and remove some."""
        path, cids = self._lab.root / "file", list[str]()
        async with self._lab.client() as client:
            while not over.is_set():
                path.write_bytes(random.randbytes(100))  # noqa: S311
                with suppress(ClusterError):
                    cids.append((await client.add_content(path)).cid)
                    if len(cids) > 10:
                        await client.remove_content(cids.pop(0))
                await asyncio.sleep(0.2)

    async def break_things(self) -> None:
        """Change leaders, cut, kill and install, over and over; one round at least."""
        stopped, *_ = self.readers
        stopped.stop_reading(min(STOPPED_SECONDS, self.seconds))
        rounds = 0
        longest = self._scene.ends_at + LONGER_SECONDS_MAX
        while (
            rounds == 0 or self._scene.goes_on or (self._lacking() and time.monotonic() < longest)
        ):
            leads, breaks = self._others if rounds % 2 else reversed(self._others)
            for reader in self.late:
                reader.go_away()
            await self._lead(leads)
            await self._cut(breaks, leads)
            self._hop()
            await self._kill(breaks, self.late[0])
            await self._lead(self._first)
            self._hop()
            await self._kill(leads, self.late[1])
            rounds += 1

    def _hop(self) -> None:
        for reader in self.readers[1:4]:
            reader.hop.set()

    async def _lead(self, node: LocalNode) -> None:
        """Have a master lead."""
        self._scene.note_fault()
        ends = time.monotonic() + WAIT_SECONDS_MAX
        while time.monotonic() < ends:
            with suppress(ClusterError):
                async with self._lab.client() as client:
                    if (await self._scene.leader_for_sure()) is node:
                        return
                    if await client.transfer_leadership(node.node_id) == node.node_id:
                        self._counts["leader changes"] += 1
                        return
            await asyncio.sleep(0.3)
        self._scene.missed.append(f"{node.name} never led")

    async def _cut(self, node: LocalNode, leads: LocalNode) -> None:
        """Cut a follower off until its leader no longer has the entries that it lacks."""
        net = self._lab.net
        assert net is not None
        self._scene.note_fault()
        others = [each for each in self._lab.nodes if each is not node]
        for other in others:
            net.cut(node, other)
            net.cut(other, node)
        await asyncio.sleep(CUT_SECONDS / 2)
        await self._lead(self._first)
        await self._lead(leads)
        await asyncio.sleep(CUT_SECONDS / 2)
        self._scene.check_happened(net.touched(), "packets that are cut off")
        net.heal()
        pinned = self.readers[4 + self._others.index(node)]
        await self._until(lambda: pinned.revision >= self.readers[3].revision - OLD_ENTRIES)

    async def _kill(self, node: LocalNode, late: Reader) -> None:
        """Kill a master; a reader that was away for long goes on there once it is back."""
        began = late.revision
        await self._until(lambda: self.readers[3].revision > began + OLD_ENTRIES)
        self._scene.note_fault()
        await self._lab.kill(node)
        await asyncio.sleep(0.5)
        await self._lab.start_node(node)
        late.come_back(node)
        await self._until(lambda: late.revision > began + OLD_ENTRIES)

    @staticmethod
    async def _until(reached: Callable[[], bool]) -> None:
        ends = time.monotonic() + WAIT_SECONDS_MAX
        while not reached() and time.monotonic() < ends:
            await asyncio.sleep(0.05)

    def _installs(self) -> int:
        """How many snapshots were installed, by the nodes' logs."""
        logs = (node.home.path / "log" for node in self._others)
        return sum(path.read_text(errors="replace").count("snapshot installed") for path in logs)

    def _happened(self) -> Counter[str]:
        """What has happened so far."""
        counts = Counter(self._counts)
        for reader in (*self.readers, *self.late):
            counts.update(reader.counts)
        installs = self._installs() - self._install_count
        counts["reset while watching"] = min(counts["reset while watching"], installs)
        return counts

    def _lacking(self) -> list[str]:
        """What has happened less often than it must."""
        counts = self._happened()
        return [
            f"{what}: {counts[what]}, at least {count} are wanted"
            for what, count in least(self.seconds).items()
            if counts[what] < count
        ]

    async def check(self) -> None:
        """Compare every bookmark with the log, and count what happened."""
        scene, readers = self._scene, [*self.readers, *self.late]
        await self._lab.kill(self._worker)
        copy = self._lab.root / "log-of-all"
        await self._lab.kill(self._first)
        shutil.copytree(self._first.home.raft, copy)
        await self._lab.start_node(self._first)
        for reader in readers:
            scene.wrong += reader.wrong
        revisions = sorted({revision for reader in readers for revision, _ in reader.marks})
        replayed = partial(digests_at, copy, revisions, STATE_TABLES)
        wanted = dict(await asyncio.to_thread(lambda: list(replayed())))
        compared = 0
        for number, reader in enumerate(readers):
            for revision, digests in reader.marks:
                there = wanted[revision]
                if there is None:
                    scene.wrong.append(f"the log has no revision {revision}")
                    continue
                compared += len(digests)
                for name, digest in digests.items():
                    if digest != there[name]:
                        scene.wrong.append(
                            f"reader {number} has another {name} at {revision}: "
                            f"{digest[0]} rows, {there[name][0]} in the log"
                        )
        del scene.wrong[WRONG_MAX:]
        scene.missed += self._lacking()
        counts = ", ".join(f"{what} {count}" for what, count in sorted(self._happened().items()))
        scene.notes += [f"{compared} tables compared at bookmarks", counts]
