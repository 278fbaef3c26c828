"""Blocks on a real disk: whole or absent, whatever happens meanwhile."""

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.content import blockstore
from ipfs_cluster_node.adapters.content.blockstore import BATCH_BLOCKS_MAX, BlockStore
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.multiformats import RAW, Cid, cid_of
from ipfs_cluster_node.core.unixfs import Block
from tests.support.content import content, fill, holding


def make_blocks(count: int, size: int = 100) -> dict[Cid, bytes]:
    data = content(count * size)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return {cid_of(RAW, piece): piece for piece in pieces}


def files_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_flushed_blocks_are_there_after_a_restart(tmp_path: Path) -> None:
    blocks = make_blocks(20)
    fill(BlockStore(tmp_path), blocks)
    again = BlockStore(tmp_path)
    assert {cid: again.get(cid) for cid in blocks} == blocks
    assert again.size_bytes == 2000


def test_a_block_is_one_file_in_a_directory_named_by_its_cid(tmp_path: Path) -> None:
    [cid] = blocks = make_blocks(1)
    fill(BlockStore(tmp_path), blocks)
    assert files_in(tmp_path) == [tmp_path / str(cid)[-3:-1] / str(cid)]


def test_a_block_is_not_there_before_the_flush(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    [(cid, data)] = make_blocks(1).items()
    with store.batch() as batch:
        batch.put(Block(cid, data))
        assert not store.has(cid)
        assert store.get(cid) is None
        batch.flush()
        assert store.has(cid)
        assert store.get(cid) == data


def test_what_was_not_flushed_leaves_nothing(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    with pytest.raises(KeyError), store.batch() as batch:
        for cid, data in make_blocks(5).items():
            batch.put(Block(cid, data))
        raise KeyError
    assert files_in(tmp_path) == []
    assert store.size_bytes == 0


def test_a_batch_flushes_itself(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    blocks = make_blocks(3 * BATCH_BLOCKS_MAX + 1)
    with store.batch() as batch:
        for cid, data in blocks.items():
            batch.put(Block(cid, data))
        assert len(holding(store, blocks)) == 3 * BATCH_BLOCKS_MAX


CRASH = """
import os, sys
from pathlib import Path
from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from tests.content.test_blockstore import make_blocks
from ipfs_cluster_node.core.unixfs import Block

blocks = [Block(cid, data) for cid, data in make_blocks(10).items()]
with BlockStore(Path(sys.argv[1])).batch() as batch:
    for block in blocks[:5]:
        batch.put(block)
    batch.flush()
    for block in blocks[5:]:
        batch.put(block)
    os._exit(9)
"""


def test_a_crash_leaves_the_flushed_blocks_and_nothing_else(tmp_path: Path) -> None:
    project = Path(__file__).resolve().parent.parent.parent
    ended = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path)], cwd=project, check=False, timeout=60
    )
    assert ended.returncode == 9
    assert len(files_in(tmp_path)) == 10
    blocks = list(make_blocks(10))
    store = BlockStore(tmp_path)
    assert holding(store, blocks) == set(blocks[:5])
    assert len(files_in(tmp_path)) == 5
    assert store.size_bytes == 500


@pytest.mark.parametrize("damage", [0, 5, 100, 5000])
def test_a_damaged_block_is_moved_aside_and_can_be_stored_anew(
    tmp_path: Path, damage: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = BlockStore(tmp_path)
    [(cid, data)] = blocks = list(make_blocks(1).items())
    fill(store, dict(blocks))
    [path] = files_in(tmp_path)
    path.write_bytes(bytes(damage))
    with caplog.at_level(logging.ERROR):
        assert store.get(cid) is None
    assert [getattr(record, "cid", None) for record in caplog.records] == [str(cid)]
    assert not store.has(cid)
    assert [p.suffix for p in files_in(tmp_path)] == [".damaged"]
    assert not BlockStore(tmp_path).has(cid)
    fill(store, dict(blocks))
    assert store.get(cid) == data


@pytest.mark.parametrize("damage", [0, 5, 100, 5000])
def test_a_damaged_block_is_written_anew_when_it_is_put_again(tmp_path: Path, damage: int) -> None:
    """Once its name was enough: the bytes were acknowledged, but missing."""
    store = BlockStore(tmp_path)
    [(cid, data)] = blocks = list(make_blocks(1).items())
    fill(store, dict(blocks))
    [path] = files_in(tmp_path)
    path.write_bytes(bytes(damage))
    fill(store, dict(blocks))
    assert store.get(cid) == data


def test_a_deleted_block_is_gone_and_its_bytes_are_given_back(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    first, second = blocks = make_blocks(2)
    fill(store, blocks)
    store.delete_unheld([first])
    store.delete_unheld([first])
    assert holding(store, blocks) == {second}
    assert store.size_bytes == 100


def test_the_same_block_twice_is_stored_once(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    blocks = make_blocks(3)
    fill(store, blocks)
    fill(store, blocks)
    with store.batch() as batch:
        for cid, data in [*blocks.items(), *blocks.items()]:
            batch.put(Block(cid, data))
        batch.flush()
    assert len(files_in(tmp_path)) == 3
    assert store.size_bytes == 300


def test_batches_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    blocks = make_blocks(200)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fill(store, blocks), range(4)))
    assert {cid: store.get(cid) for cid in blocks} == blocks
    assert len(files_in(tmp_path)) == 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "small"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk_is_named_and_no_half_block_stays(small_disk: Path) -> None:
    store = BlockStore(small_disk)
    blocks = make_blocks(6, size=300_000)
    with pytest.raises(ClusterError) as refused, store.batch() as batch:
        for cid, data in blocks.items():
            batch.put(Block(cid, data))
            batch.flush()
    assert refused.value.reason is Reason.STORAGE_FULL
    kept = holding(store, blocks)
    assert 1 <= len(kept) < 6
    assert all(store.get(cid) == blocks[cid] for cid in kept)
    assert len(files_in(small_disk)) == len(kept)
    assert store.size_bytes == 300_000 * len(kept)
    # Once there is room again, work goes on.
    for cid in kept:
        store.delete_unheld([cid])
    missing = {cid: data for cid, data in blocks.items() if cid not in kept}
    fill(store, dict([*missing.items()][:2]))
    assert len(holding(store, blocks)) == 2


def one_block(directory: Path) -> tuple[BlockStore, Cid, bytes, Path]:
    store = BlockStore(directory)
    [(cid, data)] = blocks = list(make_blocks(1).items())
    fill(store, dict(blocks))
    [path] = files_in(directory)
    return store, cid, data, path


def a_directory_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "within").touch()


def a_file_in_place_of_its_directory(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    path.parent.touch()


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def a_link_to_the_same_bytes(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("elsewhere")))


def a_fifo_in_its_place(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_fifo_in_place_of_its_directory(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    os.mkfifo(path.parent)


def a_file_larger_than_memory(path: Path) -> None:
    os.truncate(path, 1 << 40)


def its_directory_removed(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


@pytest.mark.parametrize(
    "damage",
    [
        a_directory_in_its_place,
        a_file_in_place_of_its_directory,
        a_link_to_itself,
        a_link_to_the_same_bytes,
        a_fifo_in_its_place,
        a_fifo_in_place_of_its_directory,
        a_file_larger_than_memory,
        its_directory_removed,
        Path.unlink,
    ],
)
@pytest.mark.parametrize("read_first", [True, False])
def test_whatever_is_in_place_of_a_block_is_no_block_and_gives_way_to_it(
    tmp_path: Path, damage: Callable[[Path], None], *, read_first: bool
) -> None:
    store, cid, data, path = one_block(tmp_path)
    damage(path)
    if read_first:
        assert store.get(cid) is None
        assert not store.has(cid)
    fill(store, {cid: data})
    assert store.get(cid) == data
    assert store.has(cid)
    assert BlockStore(tmp_path).get(cid) == data


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_block_that_cant_be_read_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store, cid, data, _ = one_block(tmp_path)

    def fails(_path: Path, _flags: int) -> int:
        raise OSError(number, "asked for")

    with monkeypatch.context() as patch:
        patch.setattr(blockstore, "open_regular", fails)
        assert store.get(cid) is None
    assert store.damaged_count == 1
    fill(store, {cid: data})
    assert (store.damaged_count, store.repaired_count) == (0, 1)


def test_used_up_descriptors_make_no_block_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cid, data, _ = one_block(tmp_path)

    def fails(_path: Path, _flags: int) -> int:
        raise OSError(errno.EMFILE, "asked for")

    with monkeypatch.context() as patch:
        patch.setattr(blockstore, "open_regular", fails)
        with pytest.raises(ClusterError) as refused:
            store.get(cid)
    assert refused.value.reason is Reason.OVERLOADED
    assert store.get(cid) == data
    assert store.damaged_count == 0


def test_damage_is_counted_until_it_is_repaired_and_remembered_over_a_start(tmp_path: Path) -> None:
    store, cid, data, path = one_block(tmp_path)
    path.write_bytes(b"damaged")
    assert store.get(cid) is None
    assert (store.damaged_count, store.repaired_count) == (1, 0)
    assert store.is_damaged(cid)
    store = BlockStore(tmp_path)
    assert (store.damaged_count, store.size_bytes) == (1, 0)
    fill(store, {cid: data})
    assert (store.damaged_count, store.repaired_count) == (0, 1)
    assert files_in(tmp_path) == [path]
    assert store.size_bytes == BlockStore(tmp_path).size_bytes == len(data)


def test_a_lost_block_counts_as_damaged_unless_it_is_here(tmp_path: Path) -> None:
    store, cid, _, path = one_block(tmp_path)
    store.note_lost(cid)
    assert store.damaged_count == 0
    path.unlink()
    store.note_lost(cid)
    assert store.damaged_count == 1
