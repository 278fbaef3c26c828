"""The space that files and the audit log leave for the log of consensus."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.audit.files import FileAuditLog
from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.core.audit import AuditQuery, AuditRecord, Outcome
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.multiformats import RAW, cid_of
from ipfs_cluster_node.core.storage import LOG_RESERVE_SHARE_MAX
from ipfs_cluster_node.core.unixfs import Block
from ipfs_cluster_node.node.space import DiskSpace
from tests.support.disks import fill_up, free_bytes, small_disk
from tests.support.virtual_time import loop_clock

DISK_BYTES = 4 * 2**20
RESERVE_BYTES = int(LOG_RESERVE_SHARE_MAX * DISK_BYTES)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", f"{DISK_BYTES}") as path:
        yield path


def test_files_leave_the_reserve_and_are_taken_again_once_there_is_room(disk: Path) -> None:
    space = DiskSpace(disk, 2**30)
    store = BlockStore(disk / "content", space.require)
    blocks = [Block(cid_of(RAW, data), data) for data in (bytes([n]) * 100_000 for n in range(60))]
    with pytest.raises(ClusterError) as refused, store.batch() as batch:
        for block in blocks:
            batch.put(block)
    assert refused.value.reason is Reason.STORAGE_FULL
    assert "0.2 MiB are kept for its log" in refused.value.message
    assert space.room_bytes > 0  # What was not flushed is given back.
    with pytest.raises(ClusterError), store.batch() as batch:
        for block in blocks:
            batch.put(block)
            batch.flush()
    assert free_bytes(disk) >= RESERVE_BYTES
    store.delete_unheld([blocks[0].cid])
    with store.batch() as batch:
        batch.put(blocks[-1])
        batch.flush()
    assert store.has(blocks[-1].cid)


def test_a_reserve_of_nothing_lets_files_have_all(disk: Path) -> None:
    space = DiskSpace(disk, 0)
    fill_up(disk, leave_bytes=8192)
    space.require(8192)
    assert space.room_bytes == 8192


def record(n: int) -> AuditRecord:
    return AuditRecord(
        at_ms=n,
        caller="c",
        caller_class="client",
        peer="",
        method="M",
        command="",
        outcome=Outcome.ALLOWED,
    )


@pytest.mark.asyncio
async def test_the_audit_log_gives_way_behind_files_and_says_what_was_lost(disk: Path) -> None:
    space = DiskSpace(disk, 2**30)
    audit = FileAuditLog(disk / "audit.jsonl", lambda: space.has_room_for_audit, clock=loop_clock())
    audit.start()
    try:

        async def noted() -> list[AuditRecord]:
            return list(await audit.read(AuditQuery(size=100)))

        filler = fill_up(disk, leave_bytes=RESERVE_BYTES * 3 // 4)
        audit.record(record(1))
        assert [each.at_ms for each in await noted()] == [1]  # Files would be refused by now.
        filler.unlink()
        filler = fill_up(disk, leave_bytes=RESERVE_BYTES // 4)
        left = free_bytes(disk)
        for n in range(2, 7):
            audit.record(record(n))
        assert [each.at_ms for each in await noted()] == [1]
        assert free_bytes(disk) == left
        filler.unlink()
        await asyncio.sleep(0)
        audit.record(record(7))
        found = await noted()
        assert [each.at_ms for each in found if each.outcome is Outcome.ALLOWED] == [7, 1]
        lost = [each for each in found if each.outcome is Outcome.LOST]
        assert [each.reason for each in lost] == ["5 records could not be written"]
    finally:
        await audit.stop()
