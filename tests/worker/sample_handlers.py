"""Handlers that behave badly, each in its way."""

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ipfs_cluster_node.tasks import TaskContext, TaskResult, task_handler


@task_handler("sleep")
def sleep(task: TaskContext) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


@task_handler("leave_children")
def leave_children(task: TaskContext) -> str:
    child = subprocess.Popen(
        [sys.executable, "-c", "import os,time; os.fork() or os.setsid(); time.sleep(60)"],
        start_new_session=True,
    )
    if task.payload == b"stay":
        time.sleep(60)
    return str(child.pid)


@task_handler("exit")
def leave(task: TaskContext) -> None:
    os._exit(3)


@task_handler("half_a_character")
def fail_oddly(task: TaskContext) -> None:
    task.progress(0.5, "half \ud800")
    raise RuntimeError("no such city: \ud800")


@task_handler("raise")
def fail(task: TaskContext) -> None:
    raise RuntimeError("as asked")


@task_handler("unserialisable")
def unserialisable(task: TaskContext) -> Any:
    return object()


@task_handler("flood")
def flood(task: TaskContext) -> str:
    for _ in range(2000):
        print("x" * 10_000)
    return "done"


@task_handler("write")
def write(task: TaskContext) -> None:
    Path(task.payload.decode()).write_text("written")


@task_handler("large")
def large(task: TaskContext) -> TaskResult:
    path = task.scratch / "large"
    path.write_bytes(bytes(5_000_000))
    return TaskResult(file=path)


@task_handler("outside")
def outside(task: TaskContext) -> TaskResult:
    from pathlib import Path

    return TaskResult(file=Path("/etc/passwd"))


@task_handler("environment")
async def environment(task: TaskContext) -> dict[str, str]:
    await asyncio.sleep(0)
    task.progress(0.5, "half")
    return dict(os.environ)


@task_handler("look_around")
def look_around(task: TaskContext) -> dict[str, Any]:
    """Try to read each path of the payload, by itself, by its node, and once it is unmounted."""
    paths = json.loads(task.payload)
    libc = ctypes.CDLL(None, use_errno=True)
    again = (
        "import ctypes,sys;libc=ctypes.CDLL(None);libc.unshare(0x10020000);"
        "print([libc.umount2(p.encode(),2) for p in sys.argv[1:]])"
    )
    parent = Path(f"/proc/{os.getppid()}")
    return {
        "seen": {path: _content(Path(path)) for path in paths},
        "unmounted": [libc.umount2(path.encode(), 2) for path in paths],
        "elsewhere": subprocess.run(
            [sys.executable, "-c", again, *paths], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "by_its_node": {path: _content(parent / "root" / path.lstrip("/")) for path in paths},
        "memory": _content(parent / "mem"),
        "uid": os.getuid(),
        "still": {path: _content(Path(path)) for path in paths},
    }


def _content(path: Path) -> str:
    try:
        if path.is_dir():
            return " ".join(sorted(each.name for each in path.iterdir()))
        with path.open("rb") as file:
            return file.read(100).decode()
    except (OSError, ValueError) as error:
        return type(error).__name__


@task_handler("mounts")
def mounts(task: TaskContext) -> dict[str, list[str]]:
    """What is mounted where it runs, and with which options; the last one at a place counts."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {fields[4]: fields[5].split(",") for fields in map(str.split, lines)}


@task_handler("write_at")
def write_at(task: TaskContext) -> dict[str, Any]:
    (Path.home() / "cache").write_text("of a library")
    at_home = sorted(each.name for each in task.scratch.iterdir())
    Path(task.payload.decode(), "file").write_text("not here")
    return {"at_home": at_home}
