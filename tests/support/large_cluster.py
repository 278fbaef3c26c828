"""A cluster whose state is large from the start: it is put into the masters' snapshots."""

import asyncio
import hashlib
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.snapshot import (
    SNAPSHOT_NAME,
    Position,
    SnapshotFile,
    open_snapshot,
    store_snapshot,
)
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core.certificates import CertificateRecord
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId
from ipfs_cluster_node.core.model import (
    Content,
    JoinToken,
    Role,
    Task,
    TaskInput,
    TaskResult,
    TaskSpec,
    TaskState,
)
from ipfs_cluster_node.core.multiformats import RAW, Cid
from ipfs_cluster_node.core.requests import RequestRecord
from ipfs_cluster_node.core.state_data import StateData

AHEAD: Final = 10_000
"""How far the planted snapshots are ahead of every log."""
REQUESTS: Final = 100_000
CERTIFICATES: Final = 50_000
TOKENS: Final = 2_000
WIDE_TASKS: Final = 2_000
"""With as many inputs, and names as long, as there may be; the newest, so that lists show them."""


def cid_of(number: int) -> str:
    return str(Cid(RAW, hashlib.sha256(b"%d" % number).digest()))


def task_id_of(number: int) -> TaskId:
    return TaskId(hashlib.sha256(b"task %d" % number).hexdigest()[:20])


def fill(data: StateData, holders: tuple[NodeId, ...], *, files: int, tasks: int) -> StateData:
    """Add what a cluster of some age would have."""
    rng = random.Random(1)
    now_ms = round(1000 * time.time())
    submitter = next(p.did for p in data.principals if p.role is Role.CLIENT)
    wide = TaskSpec(
        task_type="t" * 64,
        namespace="/".join(["n" * 15] * 8),
        inputs=tuple(TaskInput(f"{n:064d}", cid_of(n), "parquet") for n in range(64)),
    )
    plain = TaskSpec(task_type="echo")
    return replace(
        data,
        tasks=tuple(
            Task(
                task_id=task_id_of(n),
                sequence=n + 1,
                spec=wide if n >= tasks - WIDE_TASKS else replace(plain, namespace=f"n{n % 5000}"),
                submitter=submitter,
                state=TaskState.SUCCEEDED,
                attempt=1,
                node_id=holders[0],
                submitted_at_ms=now_ms,
                assigned_at_ms=now_ms,
                finished_at_ms=now_ms,
                result=TaskResult(data=b"r" * 100),
            )
            for n in range(tasks)
        ),
        requests=tuple(
            RequestRecord(submitter, f"r{n:020d}", now_ms, rng.randbytes(32), ())
            for n in range(REQUESTS)
        ),
        contents=tuple(
            Content(
                cid=cid_of(n),
                size_bytes=n,
                holders=holders[:2],
                name="f" * (255 if n % 100 == 0 else 20),
                added_at_ms=now_ms,
            )
            for n in range(files)
        ),
        certificates=(
            *data.certificates,
            *(
                CertificateRecord(
                    serial=rng.getrandbits(150) + 1,
                    did=submitter,
                    spki_hash=rng.randbytes(32),
                    not_after_s=now_ms // 1000 + 60,
                    issued_at_ms=now_ms,
                    epoch=1,
                )
                for _ in range(CERTIFICATES)
            ),
        ),
        tokens=(
            *data.tokens,
            *(
                JoinToken(
                    token_id=f"t{n:05d}",
                    secret_hash=b"s" * 32,
                    role=Role.CLIENT,
                    expires_at_ms=now_ms + 3_600_000,
                    uses_max=50,
                    dids=tuple(Did(f"did:key:z6Mk{n:044d}") for n in range(50)),
                    addresses=("a" * 255,) * 8,
                    creator=submitter,
                )
                for n in range(TOKENS)
            ),
        ),
    )


async def start_large(cluster: LocalCluster, *, files: int, tasks: int) -> None:
    """Start three masters and a worker, with so many files and tasks from the start."""
    await cluster.start(masters=3, workers=1)
    async with cluster.client() as client:
        backup = cluster.root / "backup"
        await client.create_backup(backup)
    await cluster.stop()
    masters = [node for node in cluster.nodes if node.role == "master"]
    data, position = _read(backup)
    large = fill(data, tuple(NodeId(m.node_id) for m in masters), files=files, tasks=tasks)
    planted = replace(position, index=position.index + AHEAD)
    parts = list(encode_snapshot(large))
    for master in masters:
        disk = DirectoryDisk(master.home.raft)
        store_snapshot(disk, planted, parts)
        disk.close()
    await asyncio.gather(*(cluster.start_node(node) for node in cluster.nodes))


def _read(backup: Path) -> tuple[StateData, Position]:
    (backup.parent / "read").mkdir(mode=0o700)
    disk = DirectoryDisk(backup.parent / "read")
    (backup.parent / "read" / SNAPSHOT_NAME).write_bytes(backup.read_bytes())
    file: SnapshotFile | None = open_snapshot(disk)
    assert file is not None
    data, position = decode_snapshot(file.parts()), file.position
    file.close()
    disk.close()
    return data, position
