"""A master's damaged or lost blocks: what readers get, and what it repairs."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.cluster.content import block_repairs
from ipfs_cluster_node.cluster.content.contents import Contents
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.multiformats import RAW, Cid
from tests.support.content import MemorySource, build, content, fill
from tests.support.virtual_time import loop_clock

DATA = content(3000)
ROOT, BLOCKS = build(DATA)
LEAVES = [cid for cid in BLOCKS if cid.codec == RAW]
INNER = [cid for cid in BLOCKS if cid.codec != RAW and cid != ROOT]


class Here(Contents):
    """Contents of a holder, and of the others what `other` has."""

    def __init__(self, directory: Path, other: MemorySource, *, holders: tuple[str, ...]) -> None:
        held = {str(ROOT): SimpleNamespace(holders=holders)}
        consensus = SimpleNamespace(
            node_id="this", state=lambda: SimpleNamespace(contents=held, members=None)
        )
        self.other = other
        super().__init__(
            consensus=cast("Any", consensus),
            store=BlockStore(directory),
            channel_to=lambda _node: None,
            clock=loop_clock(),
        )

    def _sources(self, root: Cid) -> list[Any]:
        return [self.other]

    def path(self, cid: Cid) -> Path:
        return self.store.path_of(cid)

    async def read(self) -> bytes:
        return b"".join(
            [piece async for piece in self.get_content(str(ROOT), offset=0, length=None)]
        )

    async def give(
        self, cids: Sequence[Cid], *, root: bytes = b""
    ) -> tuple[list[Cid], Reason | None]:
        """What it gives of these blocks, and how it ends."""
        given: list[Cid] = []
        by_binary = {cid.binary: cid for cid in cids}
        try:
            async for binary, data in self.get_blocks([c.binary for c in cids], root=root):
                assert by_binary[binary].matches(data)
                given.append(by_binary[binary])
        except ClusterError as error:
            return given, error.reason
        return given, None


@pytest.fixture
def here(tmp_path: Path) -> Here:
    made = Here(tmp_path, MemorySource("other", BLOCKS), holders=("this", "other"))
    fill(made.store, BLOCKS)
    return made


def test_a_file_that_is_not_named_may_have_been_removed(here: Here) -> None:
    here._consensus.read_state = here._consensus.state  # type: ignore[method-assign]
    assert here.stat_content(str(ROOT)).holders == ("this", "other")
    with pytest.raises(ClusterError, match="it was removed, or never added") as caught:
        here.stat_content(str(LEAVES[0]))
    assert caught.value.reason is Reason.CONTENT_NOT_FOUND


@pytest.mark.asyncio
@pytest.mark.parametrize("cid", [LEAVES[5], INNER[0], ROOT])
async def test_a_read_goes_on_with_the_next_holder_and_repairs_the_block(
    here: Here, cid: Cid
) -> None:
    here.path(cid).write_bytes(b"damaged")
    assert await here.read() == DATA
    assert here.store.get(cid) == BLOCKS[cid]
    assert (here.store.damaged_count, here.store.repaired_count) == (0, 1)
    assert await here.read() == DATA
    assert here.other.asked == [[cid]]  # Only what was damaged, once.


@pytest.mark.asyncio
async def test_a_lost_block_of_a_holder_is_counted_and_of_another_master_is_not(
    here: Here, tmp_path: Path
) -> None:
    here.path(LEAVES[5]).unlink()
    assert await here.read() == DATA
    assert here.store.repaired_count == 1
    elsewhere = Here(tmp_path / "2", MemorySource("other", BLOCKS), holders=("other",))
    assert await elsewhere.read() == DATA
    assert (elsewhere.store.damaged_count, elsewhere.store.repaired_count) == (0, 0)


@pytest.mark.asyncio
async def test_what_is_had_nowhere_is_refused_and_counted(here: Here) -> None:
    here.other = MemorySource("other", {})
    here.path(LEAVES[5]).write_bytes(b"damaged")
    here.path(LEAVES[7]).unlink()
    with pytest.raises(ClusterError) as caught:
        await here.read()
    assert caught.value.reason is Reason.CONTENT_NOT_FOUND
    assert "other" in caught.value.message
    assert here.store.damaged_count >= 1


@pytest.mark.asyncio
async def test_a_lie_of_another_master_is_neither_served_nor_stored(here: Here) -> None:
    here.other = MemorySource("other", BLOCKS, twist=lambda cid, data: (cid, data[::-1]))
    here.path(LEAVES[5]).write_bytes(b"damaged")
    with pytest.raises(ClusterError) as caught:
        await here.read()
    assert caught.value.reason is Reason.CONTENT_NOT_FOUND
    assert here.store.get(LEAVES[5]) is None


@pytest.mark.asyncio
async def test_a_file_is_read_though_there_is_no_room_to_store_it(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise ClusterError(Reason.STORAGE_FULL, "asked for")

    elsewhere = Here(tmp_path / "2", MemorySource("other", BLOCKS), holders=("other",))
    monkeypatch.setattr("ipfs_cluster_node.adapters.content.blockstore.Batch.put", full)
    assert await elsewhere.read() == DATA
    assert not elsewhere.store.has(ROOT)


@pytest.mark.asyncio
async def test_another_master_gets_the_rest_and_a_worker_gets_all(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = LEAVES[3:9]
    for cid in asked[:2]:
        here.path(cid).write_bytes(b"damaged")
    begun: list[Cid] = []
    monkeypatch.setattr(here._repairs, "begin", begun.append)
    assert await here.give(asked) == (asked[2:], Reason.CONTENT_NOT_FOUND)
    assert begun == asked[:2]
    assert await here.give(asked, root=ROOT.binary) == (asked, None)
    assert here.store.repaired_count == 2


@pytest.mark.asyncio
async def test_blocks_are_told_of_a_file_though_its_nodes_are_damaged(here: Here) -> None:
    here.path(INNER[0]).write_bytes(b"damaged")
    assert await here.give(LEAVES[:3], root=ROOT.binary) == (LEAVES[:3], None)


@pytest.mark.asyncio
async def test_two_masters_that_lack_a_block_do_not_ask_each_other_for_ever(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.other = MemorySource("other", {})
    here.path(LEAVES[5]).write_bytes(b"damaged")
    clock = [1000.0]
    monkeypatch.setattr(here._repairs, "_monotonic", lambda: clock[0])
    for _ in range(3):
        await here.give([LEAVES[5]])
        await asyncio.sleep(0.05)
    assert len(here.other.asked) == 1
    clock[0] += block_repairs.AGAIN_SECONDS_MIN
    await here.give([LEAVES[5]])
    await asyncio.sleep(0.05)
    assert len(here.other.asked) == 2


@pytest.mark.asyncio
async def test_readers_of_one_damaged_block_share_its_repair(here: Here) -> None:
    here.path(LEAVES[5]).write_bytes(b"damaged")
    assert await asyncio.gather(*(here.read() for _ in range(5))) == [DATA] * 5
    assert len(here.other.asked) == 1
