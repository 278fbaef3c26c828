"""A file of 1 GiB goes in, out and through a task, without memory growing with it."""

import asyncio
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipfs_cluster_node.cli.local_cluster import command
from ipfs_cluster_node.config.profiles import PROFILES_VARIABLE, save_profile
from tests.support.clusters import cluster_of
from tests.support.environment import environment_with

MIB = 2**20
SIZE_MIB = int(os.environ.get("LARGE_FILE_MIB", "1024"))
GROWTH_MIB_MAX = 48
ROWS_PER_PIECE = 8192


def rss_peak(pid: int) -> int:
    """The most memory that a process has had, in bytes; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(x.split()[1]) * 1024 for x in status.splitlines() if x[:5] == "VmHWM"), 0)


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@contextmanager
def following(pid: int, peaks: list[int]) -> Iterator[None]:
    """Note the peak of a process until it ends; the kernel keeps it, so no moment is missed."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            peaks.append(rss_peak(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def run(profiles: Path, *arguments: str) -> tuple[str, int]:
    """Run the command line; returns what it printed, and its peak memory in bytes."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments),
        env=environment_with(profiles),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    peaks: list[int] = []
    with following(process.pid, peaks):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode().strip(), max(peaks)


def write_csv(path: Path) -> tuple[int, int, str]:
    """Write a CSV whose blocks all differ; returns its rows, its sum and its SHA-256."""
    rows, total, digest = 0, 0, hashlib.sha256()
    with path.open("wb") as file:
        size = file.write(b"a,b\n")
        digest.update(b"a,b\n")
        while size < SIZE_MIB * MIB:
            text = hashlib.shake_128(str(rows).encode()).hexdigest(60 * ROWS_PER_PIECE)
            lines = "".join(
                f"{n},{text[(n - rows) * 120 : (n - rows + 1) * 120]}\n"
                for n in range(rows, rows + ROWS_PER_PIECE)
            ).encode()
            total += sum(range(rows, rows + ROWS_PER_PIECE))
            rows += ROWS_PER_PIECE
            size += file.write(lines)
            digest.update(lines)
    return rows, total, digest.hexdigest()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.asyncio
async def test_a_large_file_passes_with_flat_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = tmp_path / "profiles.toml"
    monkeypatch.setenv(PROFILES_VARIABLE, str(profiles))
    path, out = tmp_path / "large.csv", tmp_path / "out.csv"
    rows, total, digest = write_csv(path)
    async with cluster_of(3, 2, root=tmp_path / "cluster") as cluster:
        save_profile("default", cluster.profile)
        pids = {node.name: node.process.pid for node in cluster.nodes if node.process}
        # Each has done a little of all first, so that what is loaded once counts as idle.
        small = tmp_path / "small.csv"
        small.write_text("a\n1\n")
        await run(profiles, "content", "add", str(small))
        for pid in pids.values():
            forget_peak(pid)
        idle = {name: rss_peak(pid) for name, pid in pids.items()}
        _, idle["cli"] = await run(profiles, "content", "ls")
        cid, added = await run(profiles, "content", "add", str(path))
        _, got = await run(profiles, "content", "get", cid, "-o", str(out))
        assert sha256_of(out) == digest
        path.unlink()
        out.unlink()
        sql = "SELECT count(*) AS n, sum(a) AS total FROM input"
        answer, asked = await run(
            profiles,
            *("task", "submit", "data_processing", "--input", f"input={cid}", "--sql", sql),
            *("--attempt-timeout", "5m", "--wait", "--json"),
        )
        assert json.loads(answer)["status"]["result"]["json"]["rows"] == [[rows, str(total)]]
        peaks = {name: rss_peak(pid) for name, pid in pids.items()} | {
            "cli": max(added, got, asked)
        }
        grown = {name: (peaks[name] - idle[name]) // MIB for name in peaks}
        print(f"MiB above idle: {grown}")
        assert max(grown.values()) <= GROWTH_MIB_MAX, grown
        shutil.rmtree(tmp_path, ignore_errors=True)
