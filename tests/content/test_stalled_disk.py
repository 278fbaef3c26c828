"""A disk that stands still: what waits for it is a thread, never the event loop."""

import asyncio
import errno
import os
import threading
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.content import files
from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.core import held_blocks
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.unixfs import Block
from tests.support.content import build, content, fill, stream

ROOT, BLOCKS = build(content(3000))
SECONDS_MAX = 10.0


class Stall:
    """A call of the system that stands still until it is released."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.reached, self.goes_on = threading.Event(), threading.Event()
        self.thread: int | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.thread = threading.get_ident()
        self.reached.set()
        assert self.goes_on.wait(SECONDS_MAX)
        return self._call(*args, **kwargs)


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, SECONDS_MAX)


@pytest.mark.asyncio
async def test_what_the_loop_calls_does_not_wait_for_a_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlockStore(tmp_path)
    fill(store, BLOCKS)
    stall = Stall(Path.unlink)
    monkeypatch.setattr(Path, "unlink", partialmethod(stall))
    deletion = asyncio.create_task(asyncio.to_thread(store.delete_unheld, [ROOT]))
    await until(stall.reached)
    watchdog = threading.Timer(1.0, stall.goes_on.set)
    watchdog.start()
    with store.hold(), store.collecting(0.0):
        pass
    async with store.batching():
        pass
    assert not stall.goes_on.is_set(), "the loop stood still"
    stall.goes_on.set()
    watchdog.cancel()
    assert await deletion == (len(BLOCKS[ROOT]), 0)


@pytest.mark.asyncio
async def test_an_upload_that_is_cancelled_while_it_syncs_does_not_stop_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlockStore(tmp_path)
    stall = Stall(os.fsync)
    monkeypatch.setattr(os, "fsync", stall)
    upload = asyncio.create_task(files.add(stream(content(3000)), store))
    await until(stall.reached)
    watchdog = threading.Timer(1.0, stall.goes_on.set)
    watchdog.start()
    upload.cancel()
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert not stall.goes_on.is_set(), "the loop stood still"
    stall.goes_on.set()
    watchdog.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert list(store.tmp.iterdir()) == []


def test_who_stores_a_block_again_waits_for_its_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would find the block just before it goes."""
    store = BlockStore(tmp_path)
    fill(store, BLOCKS)
    stall = Stall(Path.unlink)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", partialmethod(stall))
        deletion = threading.Thread(target=store.delete_unheld, args=([ROOT],))
        deletion.start()
        assert stall.reached.wait(SECONDS_MAX)
        stored = threading.Event()

        def store_again() -> None:
            with store.hold() as hold, store.batch(hold) as batch:
                batch.put(Block(ROOT, BLOCKS[ROOT]))
                batch.flush()
            stored.set()

        again = threading.Thread(target=store_again)
        again.start()
        assert not stored.wait(0.2)
        stall.goes_on.set()
        deletion.join(SECONDS_MAX)
        again.join(SECONDS_MAX)
    assert store.has(ROOT)
    assert store.size_bytes == BlockStore(tmp_path).size_bytes


def test_a_block_that_can_not_be_deleted_keeps_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlockStore(tmp_path)
    fill(store, BLOCKS)
    bad = next(iter(BLOCKS))
    unlink = Path.unlink

    def failing(path: Path, **how: Any) -> None:
        if path.name == str(bad):
            raise OSError(errno.EIO, "bad sector")
        unlink(path, **how)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", failing)
        freed_bytes, left_count = store.delete_unheld(BLOCKS)
    assert left_count == 1
    assert freed_bytes == sum(len(data) for cid, data in BLOCKS.items() if cid != bad)
    assert store.delete_unheld(BLOCKS) == (len(BLOCKS[bad]), 0)
    assert store.size_bytes == 0


def test_what_ends_during_a_round_is_held_in_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held_blocks, "BLOCKS_HELD_MAX", 3)
    held = held_blocks.HeldBlocks()
    cids: list[Cid] = list(BLOCKS)
    held.begin_round(0.0)
    for cid in cids[:4]:
        hold = held.begin()
        hold.add(cid)
        held.end(hold)
        assert held.holds(cid)
    assert held._passing.all
    assert all(map(held.holds, cids))
    held.end_round()
    assert not any(map(held.holds, cids))
