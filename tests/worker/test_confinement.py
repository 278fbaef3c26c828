"""Handlers see neither the node's keys nor others' content, whoever they run as."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.worker.pool import Attempt, AttemptSucceeded, HandlerPool
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.ids import TaskId

CAN_CONFINE = "from ipfs_cluster_node.adapters.worker.confinement import confine; confine([])"


@pytest.fixture(scope="module")
def confines() -> None:
    """Where a kernel lets nobody make namespaces, nothing is hidden, and the node says so."""
    tried = subprocess.run([sys.executable, "-c", CAN_CONFINE], capture_output=True, check=False)
    if tried.returncode != 0 and os.environ.get("CI") != "true":
        pytest.skip("namespaces are not permitted here")


async def look(pool: HandlerPool, paths: list[Path], scratch: Path) -> dict[str, Any]:
    scratch.mkdir()
    done = await pool.execute(
        Attempt(
            task_id=TaskId("t"),
            attempt=1,
            task_type="look_around",
            payload=json.dumps([str(path) for path in paths]).encode(),
            content_type="",
            timeout=timedelta(seconds=20),
            inputs={},
        ),
        scratch,
    )
    assert isinstance(done, AttemptSucceeded), done
    return json.loads(done.data)  # type: ignore[no-any-return]


@pytest.mark.asyncio
async def test_a_handler_sees_nothing_of_its_nodes_home(tmp_path: Path, confines: None) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.scratch.mkdir()
    home.identity.write_text("PRIVATE")
    home.tls_key.write_text("PRIVATE")
    (home.content / "block").write_text("of somebody else")
    home.masters.write_text("PRIVATE")
    pool = HandlerPool(
        modules=["tests.worker.sample_handlers"],
        slots=1,
        memory_bytes_max=2**28,
        hidden=home.hidden_from_handlers,
    )
    await pool.start()
    try:
        paths = [home.identity, home.tls, home.tls_key, home.content, home.masters]
        found = await look(pool, paths, home.scratch / "t.1")
    finally:
        await pool.close()
    assert set(found["seen"].values()) <= {"", "FileNotFoundError"}
    assert found["still"] == found["seen"]
    assert set(found["unmounted"]) == {-1}
    assert "0" not in found["elsewhere"].strip("[]").split(", ")
    assert set(found["by_its_node"].values()) == {"PermissionError"}
    assert found["memory"] == "PermissionError"
    assert found["uid"] == os.getuid()
    # The node itself sees what it did.
    assert home.identity.read_text() == "PRIVATE"
    assert (home.content / "block").exists()


@pytest.mark.asyncio
async def test_where_nothing_is_to_be_hidden_nothing_is(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("seen")
    pool = HandlerPool(modules=["tests.worker.sample_handlers"], slots=1, memory_bytes_max=2**28)
    await pool.start()
    try:
        assert (await look(pool, [key], tmp_path / "t.1"))["seen"] == {str(key): "seen"}
    finally:
        await pool.close()
