"""Files that share blocks are added, read and removed while masters die.

A file that was acknowledged, and not removed since, is read whole at any moment; in the end every
holder has all of its blocks, and no master has a block of no file.
"""

import asyncio
import os
import random
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Final

from ipfs_cluster_node.cli.local_cluster import LocalNode
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.multiformats import Cid, parse_cid
from ipfs_cluster_node.core.unixfs import FileBuilder
from scripts.lib.fault.scene import Scene

FILES: Final = 10
"""Each begins as three others do: most of its blocks are theirs too."""
LEAF_BYTES: Final = 256 * 1024
TIMEOUT: Final = timedelta(seconds=20)
SOON: Final = Path(__file__).parent / "soon"
GONE_SECONDS_MAX: Final = 60.0
"""Until the blocks of no file are gone, once all masters run."""
DIES_SECONDS_MAX: Final = 6.0
"""How long a master may take to reach the point at which it dies; then it is killed."""
POINTS: Final = (
    "before a deletion",
    "after a deletion",
    "before a block is named",
    "after a block is named",
    "before a flush",
    "after a flush",
    "before a file is named",
)
REMOVALS_PER_KILL_MIN: Final = 1
LOST: Final = frozenset({Reason.CONTENT_NOT_FOUND, Reason.BLOCK_MISMATCH})
"""What a read of a named file must never say."""


class File:
    """A file, and what is known of it."""

    def __init__(self, number: int, path: Path) -> None:
        """Make its bytes: those of others, and a tail of its own."""
        shared = random.Random(number // 4).randbytes((1 + number % 3) * LEAF_BYTES)  # noqa: S311
        self.data = shared + b"%d" % number
        self.path = path
        path.write_bytes(self.data)
        builder = FileBuilder()
        blocks = builder.feed(self.data)
        last, root, _ = builder.finish()
        self.cid = str(root)
        self.blocks: dict[Cid, bytes] = {each.cid: each.data for each in [*blocks, *last]}
        self.named: bool | None = False
        """Whether the log names it; None after a call without an answer."""
        self.lock = asyncio.Lock()


class Removals:
    """The work on files, and what was wrong."""

    def __init__(self, scene: Scene) -> None:
        """Work on the cluster of `scene`."""
        self._scene = scene
        self.files = [File(n, scene.lab.root / f"file-{n}") for n in range(FILES)]
        self.done: Counter[str] = Counter()

    async def run(self, over: asyncio.Event) -> None:
        """Add, read and remove until told to stop."""
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(self._client(over))

    async def _client(self, over: asyncio.Event) -> None:
        rng = self._scene.rng
        while not over.is_set():
            file = rng.choice(self.files)
            async with file.lock:
                if file.named is None:
                    await self._ask(file)
                elif not file.named:
                    await self._add(file)
                elif rng.random() < 0.4:
                    await self._remove(file)
                else:
                    await self.read(file)
            await asyncio.sleep(rng.uniform(0, 0.05))

    async def _ask(self, file: File) -> None:
        async with self._scene.lab.client() as client:
            try:
                await client.stat_content(file.cid, timeout=TIMEOUT)
                file.named = True
            except ClusterError as error:
                if error.reason is Reason.CONTENT_NOT_FOUND:
                    file.named = None  # An attempt without an answer may be committed yet.
                    await self._add(file)

    async def _add(self, file: File) -> None:
        file.named = None
        async with self._scene.lab.client() as client:
            try:
                added = await client.add_content(file.path, timeout=TIMEOUT)
            except ClusterError:
                self.done["unanswered"] += 1
                return
        if added.cid != file.cid:
            self._scene.wrong.append(f"{file.cid} was added as {added.cid}")
        file.named = True
        self.done["added"] += 1

    async def _remove(self, file: File) -> None:
        file.named = None
        async with self._scene.lab.client() as client:
            try:
                await client.remove_content(file.cid, timeout=TIMEOUT)
            except ClusterError:
                self.done["unanswered"] += 1
                return
        file.named = False
        self.done["removed"] += 1

    async def read(self, file: File) -> None:
        """Read a named file at any node that runs."""
        nodes = [node for node in self._scene.lab.nodes if node.runs]
        if not nodes:
            return
        node = self._scene.rng.choice(nodes)
        async with self._scene.lab.client(node) as client:
            try:
                pieces = [p async for p in client.get_content(file.cid, timeout=TIMEOUT)]
            except ClusterError as error:
                self.done[f"unread: {error.reason}"] += 1
                if error.reason in LOST:
                    self._scene.wrong.append(f"{file.cid}, which is named: {error.message}")
                return
        if b"".join(pieces) != file.data:
            self._scene.wrong.append(f"{file.cid} was read wrong at {node.name}")
        self.done["read"] += 1

    async def check_holders(self) -> None:
        """Every acknowledged file is named, and whole at every master that is said to hold it."""
        async with self._scene.lab.client() as client:
            listed = {each.cid: each for each in await client.list_content(timeout=TIMEOUT)}
        nodes = {node.node_id: node for node in self._scene.lab.nodes}
        for file in self.files:
            content = listed.get(file.cid)
            if file.named is not None and file.named != (content is not None):
                self._scene.wrong.append(f"{file.cid}: named {content is not None}")
            file.named = content is not None
            for holder in content.holders if content is not None else ():
                node = nodes[holder.node_id]
                lacks = [cid for cid, data in file.blocks.items() if _stored(node, cid) != data]
                if lacks:
                    self._scene.wrong.append(f"{file.cid}: {node.name} lacks {lacks[0]}")

    async def check_freed(self) -> None:
        """What no file has goes everywhere, and nothing else."""
        wanted = {cid for file in self.files if file.named for cid in file.blocks}
        deadline = time.monotonic() + GONE_SECONDS_MAX
        while left := {
            (node.name, cid) for node in self._scene.lab.nodes for cid in _blocks_at(node) - wanted
        }:
            if time.monotonic() > deadline:
                self._scene.wrong.append(f"{len(left)} blocks of no file are left: {min(left)[0]}")
                return
            await asyncio.sleep(0.5)

    async def remove_all(self) -> None:
        """Remove every file."""
        for file in self.files:
            while file.named is not False:
                await (self._ask(file) if file.named is None else self._remove(file))


def _stored(node: LocalNode, cid: Cid) -> bytes | None:
    try:
        return (node.home.content / str(cid)[-3:-1] / str(cid)).read_bytes()
    except FileNotFoundError:
        return None


def _blocks_at(node: LocalNode) -> set[Cid]:
    return {parse_cid(path.name) for path in node.home.content.glob("??/b*") if not path.suffix}


def _prefix(point: str = "", count: int = 0) -> tuple[str, ...]:
    path = os.pathsep.join(filter(None, (str(SOON), os.environ.get("PYTHONPATH"))))
    return "env", f"PYTHONPATH={path}", f"DIES_AT={point}", f"DIES_AT_COUNT={count}"


async def removals(scene: Scene) -> None:
    """Kill -9 of masters at any instant and at given points, while files come and go."""
    for node in scene.lab.nodes:
        node.prefix = _prefix()
        await scene.restart(node)
    work, over = Removals(scene), asyncio.Event()
    working = asyncio.create_task(work.run(over))
    deaths: Counter[str] = Counter()
    while scene.goes_on or not (scene.faults and work.done["read"]):
        node = await scene.victim()
        scene.note_fault()
        deaths[await _killed(scene, node)] += 1
        node.prefix = _prefix()
        await scene.lab.start_node(node)
        await asyncio.sleep(scene.rng.uniform(0, 8))  # Nothing is deleted in the first 6.
    over.set()
    await working
    await work.check_holders()
    for file in work.files:
        if file.named:
            await work.read(file)
    await work.check_freed()
    await work.check_holders()
    await work.remove_all()
    await work.check_freed()
    scene.check_happened(work.done["read"], "no file was read")
    if work.done["removed"] < REMOVALS_PER_KILL_MIN * len(scene.faults):
        scene.missed.append(f"{work.done['removed']} removals, {len(scene.faults)} kills")
    scene.notes.append(f"{dict(work.done)}, deaths {dict(deaths)}")


async def _killed(scene: Scene, node: LocalNode) -> str:
    """Kill a node now, or have it die at a point of its work; returns where."""
    await scene.lab.kill(node)
    if scene.rng.random() < 0.4:
        return "any"
    point = scene.rng.choice(POINTS)
    node.prefix = _prefix(point, scene.rng.randint(1, 4))
    await scene.lab.start_node(node)
    deadline = time.monotonic() + DIES_SECONDS_MAX + 6.0 * ("deletion" in point)
    while node.runs and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    if not node.runs:
        return point
    await scene.lab.kill(node)
    return "any"
