"""Handlers see neither the node's keys nor others' content, whoever they run as."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.worker.confinement import DEVICES
from ipfs_cluster_node.adapters.worker.pool import (
    Attempt,
    AttemptFailed,
    AttemptSucceeded,
    HandlerPool,
)
from ipfs_cluster_node.adapters.worker.processes import ConfinementError, HandlerProcess, Plan
from ipfs_cluster_node.adapters.worker.sources import Sources
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId


@pytest.fixture(scope="session")
def confines() -> None:
    """Where the kernel allows no namespaces, nothing is hidden, and the node says so."""
    if not can_confine() and os.environ.get("CI") != "true":
        pytest.skip("namespaces are not permitted here")


def can_confine() -> bool:
    tried = subprocess.run(
        ["unshare", "--user", "--map-current-user", "--mount", "--pid", "--fork", "true"],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


def make_pool(
    tmp_path: Path, *, home: Path | None = None, hidden: Sequence[Path] = (), **options: Any
) -> HandlerPool:
    return HandlerPool(
        sources=Sources(modules=("tests.worker.sample_handlers",)),
        slots=1,
        memory_bytes_max=2**28,
        scratch=(home or tmp_path) / "scratch",
        hidden=[*([home] if home else ()), *hidden],
        **options,
    )


async def look(pool: HandlerPool, paths: list[Path]) -> dict[str, Any]:
    payload = json.dumps([str(path) for path in paths]).encode()
    done = await run(pool, "look_around", payload)
    assert isinstance(done, AttemptSucceeded), done
    return json.loads(done.data)  # type: ignore[no-any-return]


async def run(
    pool: HandlerPool, task_type: str, payload: bytes = b""
) -> AttemptSucceeded | AttemptFailed:
    attempt = Attempt(
        task_id=TaskId("t"),
        attempt=1,
        task_type=task_type,
        payload=payload,
        content_type="",
        timeout=timedelta(seconds=20),
        inputs={},
    )
    async with pool.lease(task_type) as lease:
        return await lease.run(attempt)


@pytest.mark.asyncio
async def test_a_handler_sees_nothing_of_its_nodes_home(tmp_path: Path, confines: None) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.identity.write_text("PRIVATE")
    home.tls_key.write_text("PRIVATE")
    (home.content / "block").write_text("of somebody else")
    home.masters.write_text("PRIVATE")
    pool = make_pool(tmp_path, home=home.path)
    await pool.start()
    assert pool.missing == ()
    try:
        paths = [home.identity, home.tls, home.tls_key, home.content, home.masters]
        found = await look(pool, paths)
    finally:
        await pool.close()
    assert set(found["seen"].values()) == {"FileNotFoundError"}
    assert found["still"] == found["seen"]
    assert set(found["unmounted"]) == {-1}
    assert "0" not in found["elsewhere"].strip("[]").split(", ")
    assert set(found["by_its_node"].values()) <= {"PermissionError", "FileNotFoundError"}
    assert found["memory"] in ("PermissionError", "FileNotFoundError")
    assert found["uid"] == os.getuid()
    # The node itself sees what it did.
    assert home.identity.read_text() == "PRIVATE"
    assert (home.content / "block").exists()


@pytest.mark.asyncio
async def test_what_is_no_home_stays_visible_and_can_not_be_changed(
    tmp_path: Path, confines: None
) -> None:
    key = tmp_path / "key"
    key.write_text("seen")
    pool = make_pool(tmp_path)
    await pool.start()
    try:
        assert (await look(pool, [key]))["seen"] == {str(key): "seen"}
    finally:
        await pool.close()


@pytest.mark.asyncio
async def test_other_nodes_and_profiles_are_hidden_too(tmp_path: Path, confines: None) -> None:
    """One hidden directory in another, one that holds the scratch directory, and a file."""
    cluster = tmp_path / "cluster"
    own, other, profiles = cluster / "worker-1", cluster / "master-1", tmp_path / "profiles.toml"
    for home in (own, other):
        home.mkdir(parents=True)
        (home / "identity.key").write_text("PRIVATE")
    profiles.write_text("PRIVATE")
    pool = make_pool(tmp_path, home=own, hidden=[cluster, profiles, tmp_path / "missing"])
    await pool.start()
    try:
        paths = [own / "identity.key", other / "identity.key", other, cluster, profiles]
        seen = (await look(pool, paths))["seen"]
    finally:
        await pool.close()
    assert list(seen.values()) == [*["FileNotFoundError"] * 3, "worker-1", ""]


@pytest.mark.asyncio
async def test_a_home_that_was_moved_starts_no_process_that_would_see_it(
    tmp_path: Path, confines: None
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "key").write_text("PRIVATE")
    pool = make_pool(tmp_path, home=home)
    await pool.start()
    try:
        async with pool.lease("look_around"):
            home.rename(tmp_path / "elsewhere")
            (home / "scratch").mkdir(parents=True)
            with pytest.raises(ClusterError, match="is not what it was"):
                async with pool.lease("look_around"):
                    pytest.fail("a process was started")
    finally:
        await pool.close()


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    """Mounts something while it is entered; the last argument is where."""
    if os.getuid() != 0:
        pytest.skip("only root can mount")
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", arguments[-1]], check=True)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["again", "für\r \\mich"])
@pytest.mark.parametrize("writable", [False, True])
async def test_a_home_that_is_mounted_twice_is_hidden_under_both_names(
    name: str, tmp_path: Path, *, writable: bool
) -> None:
    """Also where it is on a disk of its own, above one that is covered, beside any odd name."""
    disk, again, odd = tmp_path / "disk", tmp_path / name, tmp_path / os.fsdecode(b"\xff")
    home = disk / "home"
    for each in (disk, again, odd):
        each.mkdir()
    pool = make_pool(tmp_path, home=home, writable=[str(again)] if writable else [])
    with (
        mounted("--bind", odd, odd),
        mounted("--bind", odd, disk),
        mounted("-t", "tmpfs", "none", disk),
        mounted("--bind", disk, again),
    ):
        home.mkdir()
        (home / "key").write_text("PRIVATE")
        try:
            assert (again / "home" / "key").read_text() == "PRIVATE"
            await pool.start()
            assert pool.missing == ()
            seen = (await look(pool, [again / "home" / "key", again / "home"]))["seen"]
            await run(pool, "write", str(again / "file").encode())
            await run(pool, "write", str(again / "home" / "key").encode())
            assert (disk / "file").exists() == writable
            assert (home / "key").read_text() == "PRIVATE"
        finally:
            await pool.close()
    assert seen == {str(again / "home" / "key"): "FileNotFoundError", str(again / "home"): ""}


@pytest.mark.asyncio
async def test_a_name_of_a_home_that_another_mount_covers_hides_nothing(tmp_path: Path) -> None:
    home, again = tmp_path / "home", tmp_path / "again"
    for each in (home, again):
        each.mkdir()
    pool = make_pool(tmp_path, home=home)
    with mounted("--bind", tmp_path, again), mounted("-t", "tmpfs", "none", again):
        (again / "home").mkdir()
        (again / "home" / "file").write_text("another's")
        try:
            await pool.start()
            seen = (await look(pool, [again / "home"]))["seen"]
        finally:
            await pool.close()
    assert (pool.missing, seen) == ((), {str(again / "home"): "file"})


@pytest.mark.asyncio
async def test_paths_that_the_settings_name_are_writable(tmp_path: Path, confines: None) -> None:
    (tmp_path / "open").mkdir()
    pool = make_pool(tmp_path, writable=[str(tmp_path / "open")])
    await pool.start()
    try:
        for place, reason in (("open", None), ("shut", Reason.HANDLER_FAILED)):
            (tmp_path / place).mkdir(exist_ok=True)
            target = tmp_path / place / "written"
            done = await run(pool, "write", str(target).encode())
            assert target.exists() == (reason is None)
            assert getattr(done, "reason", None) is reason
    finally:
        await pool.close()


@pytest.mark.asyncio
async def test_what_stands_in_the_place_of_something_hidden_is_read_only(
    tmp_path: Path, confines: None
) -> None:
    """Memory outside every attempt's bound, and a place to leave something for the next attempt."""
    home, other, key = tmp_path / "home", tmp_path / "other", tmp_path / "key"
    for each in (home, other):
        each.mkdir()
    key.touch()
    pool = make_pool(tmp_path, home=home, hidden=[other, key])
    await pool.start()
    try:
        for place in (home / "file", other / "file", Path("/dev/file")):
            failed = await run(pool, "write", str(place).encode())
            assert isinstance(failed, AttemptFailed), place
            assert "Read-only file system" in failed.message, place
        written = await run(pool, "write", str(key).encode())
        seen = (await look(pool, [key]))["seen"]
    finally:
        await pool.close()
    # As to /dev/null, which it shows: what is written is nowhere.
    assert isinstance(written, AttemptSucceeded), written
    assert (seen, key.read_text()) == ({str(key): ""}, "")


@pytest.mark.asyncio
async def test_every_mount_that_a_handler_sees_is_locked_down(
    tmp_path: Path, confines: None
) -> None:
    home, other, opened = tmp_path / "home", tmp_path / "other", tmp_path / "open"
    for each in (home, other, opened):
        each.mkdir()
    pool = make_pool(tmp_path, home=home, hidden=[other], writable=[str(opened)])
    await pool.start()
    try:
        async with pool.lease("mounts") as lease:
            scratch = str(lease.scratch.parent)
        done = await run(pool, "mounts")
        limit = Path("/proc/sys/user/max_user_namespaces")
        seen = (await look(pool, [Path("/dev"), limit]))["seen"]
    finally:
        await pool.close()
    assert isinstance(done, AttemptSucceeded), done
    mounts: dict[str, list[str]] = json.loads(done.data)
    devices = {f"/dev/{name}" for name in DEVICES}
    assert {*devices, "/", "/dev", "/dev/shm", str(home), str(other)} <= mounts.keys()
    # Of a read-only device it is the file that can't be changed.
    assert {at for at, options in mounts.items() if "ro" not in options} - devices == {
        *(scratch, str(opened), "/dev/shm"),
    }
    assert [
        at for at, options in mounts.items() if "nosuid" not in options and at not in devices
    ] == []
    assert {at for at, options in mounts.items() if "nodev" not in options} <= {"/dev", *devices}
    names = sorted([*DEVICES, "fd", "shm", "stderr", "stdin", "stdout"])
    assert seen == {"/dev": " ".join(names), str(limit): "0\n"}


@pytest.mark.asyncio
async def test_what_is_mounted_later_does_not_come_to_handlers(tmp_path: Path) -> None:
    """It would be writable there."""
    shared, later = tmp_path / "shared", tmp_path / "shared" / "later"
    later.mkdir(parents=True)
    pool = make_pool(tmp_path)
    with mounted("--bind", "--make-shared", shared, shared):
        await pool.start()
        try:
            with mounted("-t", "tmpfs", "none", later):
                (later / "file").write_text("of the machine")
                seen = (await look(pool, [later]))["seen"]
        finally:
            await pool.close()
    assert seen == {str(later): ""}


@pytest.mark.asyncio
@pytest.mark.parametrize("writable", ["above", "above/node", "above/node/keys", "link", "missing"])
async def test_a_writable_path_does_not_overlap_what_is_hidden(
    writable: str, tmp_path: Path
) -> None:
    """`writable_paths = ["/srv"]` on a node whose home is in /srv showed its keys to handlers."""
    home = tmp_path / "above" / "node"
    (home / "keys").mkdir(parents=True)
    (tmp_path / "link").symlink_to(home.parent)
    pool = make_pool(tmp_path, home=home, writable=[str(tmp_path / writable)])
    with pytest.raises(ClusterError, match=r"tasks\.writable_paths: '/.*; ") as caught:
        await pool.start()
    assert caught.value.reason is Reason.CONFIG_INVALID
    await pool.close()


@pytest.mark.asyncio
async def test_require_confinement_refuses_to_start_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = HandlerProcess.start

    async def refused(plan: Plan, *, confined: bool) -> HandlerProcess:
        if confined:
            raise ConfinementError("unshare: Operation not permitted")
        return await missing(plan, confined=False)

    monkeypatch.setattr(HandlerProcess, "start", refused)
    strict = make_pool(tmp_path, require_confinement=True)
    with pytest.raises(ClusterError, match="Operation not permitted") as caught:
        await strict.start()
    assert caught.value.reason is Reason.CONFINEMENT_MISSING
    lax = make_pool(tmp_path)
    await lax.start()
    try:
        assert "Operation not permitted" in lax.missing[0]
        assert isinstance(await run(lax, "environment"), AttemptSucceeded)
    finally:
        await lax.close()


@pytest.mark.asyncio
async def test_what_was_confined_at_the_start_never_runs_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, confines: None
) -> None:
    pool = make_pool(tmp_path)
    await pool.start()
    asked: list[bool] = []

    async def refused(plan: Plan, *, confined: bool) -> HandlerProcess:
        asked.append(confined)
        raise ConfinementError("no space left")

    monkeypatch.setattr(HandlerProcess, "start", refused)
    try:
        with pytest.raises(ClusterError, match="no space left"):
            async with pool.lease("x"), pool.lease("x"):
                pytest.fail("a process was started")
    finally:
        await pool.close()
    assert asked == [True]


@pytest.mark.asyncio
async def test_home_is_the_scratch_directory_and_what_is_read_only_is_told_the_way_out(
    tmp_path: Path, confines: None
) -> None:
    """Libraries with caches failed without a home directory, and no message said what to do."""
    pool = make_pool(tmp_path, writable=[str(tmp_path)])
    await pool.start()
    try:
        wrote = await run(pool, "write_at", str(tmp_path).encode())
        refused = await run(pool, "write_at", b"/")
    finally:
        await pool.close()
    assert isinstance(wrote, AttemptSucceeded), wrote
    assert json.loads(wrote.data) == {"at_home": ["cache"]}
    assert isinstance(refused, AttemptFailed)
    assert "tasks.writable_paths" in refused.message
