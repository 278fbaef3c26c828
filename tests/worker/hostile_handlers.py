"""Handlers that attack their node, other attempts or the machine. Each returns what it got."""

import ctypes
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ipfs_cluster_node.tasks import TaskContext, TaskError, task_handler
from tests.worker.hostile_answers import DAEMON_SECONDS, GOOD, MARK


@task_handler("look_for_the_key")
def look_for_the_key(task: TaskContext) -> dict[str, Any]:
    """Read the node's key every way there is; `payload`: its path and the node's process."""
    key, node = json.loads(task.payload)
    home = Path(key).parent
    got: dict[str, str] = {}

    def attempt(name: str, what: Any) -> None:
        try:
            got[name] = repr(what())[:300]
        except BaseException as error:
            got[name] = type(error).__name__

    attempt("read", lambda: Path(key).read_bytes())
    attempt("list", lambda: sorted(os.listdir(home)))
    attempt("rename home", lambda: home.rename(home.with_name("moved")))
    attempt("rename parent", lambda: home.parent.rename(home.parent.with_name("moved")))
    attempt("exchange", lambda: os.replace(task.scratch, home))
    attempt("write beside", lambda: (home.parent / "planted").write_text("x"))
    attempt("write in home", lambda: (home / "planted").write_text("x"))
    attempt("write in tmp", lambda: Path(f"/tmp/planted-{MARK}").write_text("x"))
    attempt("link", lambda: os.link(key, task.scratch / "k"))
    attempt(
        "unmount", lambda: os.stat(key) if not _libc().umount2(str(home).encode(), 2) else 1 / 0
    )
    attempt("namespace", lambda: _namespace(str(home), key))
    attempt("disk", lambda: [Path(d).open("rb") for d in ("/dev/vda", "/dev/sda", "/dev/mem")])
    attempt("core pattern", lambda: Path("/proc/sys/kernel/core_pattern").write_text("|/bin/true"))
    attempt(
        "control groups",
        lambda: [p.write_text("1") for p in Path("/sys/fs/cgroup").rglob("cgroup.procs")][0],
    )
    others = {os.getppid(), 1, node, *(int(n) for n in os.listdir("/proc") if n.isdigit())}
    for pid in others - {os.getpid()}:
        attempt(f"memory {pid}", lambda pid=pid: Path(f"/proc/{pid}/mem").open("r+b"))
        attempt(f"environment {pid}", lambda pid=pid: Path(f"/proc/{pid}/environ").read_bytes())
        attempt(f"root {pid}", lambda pid=pid: Path(f"/proc/{pid}/root{key}").read_bytes())
        attempt(f"descriptors {pid}", lambda pid=pid: _descriptors(pid))
        attempt(
            f"trace {pid}", lambda pid=pid: 1 / 0 if _libc().ptrace(16, pid, 0, 0) else "traced"
        )
    attempts = task.scratch.parent.parent
    attempt(
        "other attempts", lambda: [p for p in os.listdir(attempts) if p != task.scratch.parent.name]
    )
    got["own"] = json.dumps(sorted(os.listdir(task.scratch.parent)))
    return got


def _descriptors(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _namespace(home: str, key: str) -> str:
    """Unmount what hides the key in a namespace of one's own."""
    code = (
        "import ctypes,sys;l=ctypes.CDLL(None);assert l.unshare(0x10020000)==0;"
        "l.umount2(sys.argv[1].encode(),2);print(open(sys.argv[2]).read())"
    )
    done = subprocess.run([sys.executable, "-c", code, home, key], capture_output=True, check=True)
    return done.stdout.decode()


@task_handler("signal_everybody")
def signal_everybody(task: TaskContext) -> str:
    """Signals to all there is; only where all there is belongs to the attempt."""
    if b"handler_process" not in Path("/proc/1/cmdline").read_bytes():
        raise TaskError("NOT_CONFINED", "this would end the machine")
    node = int(task.payload)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGSTOP, signal.SIGKILL):
        for pid in (node, os.getppid(), 1):
            try:
                os.kill(pid, number)
            except OSError:
                pass
    os.kill(-1, signal.SIGKILL)
    return "alive"


@task_handler("daemons")
def daemons(task: TaskContext) -> str:
    """Leave processes behind in every way."""
    sleeper = [sys.executable, "-c", f"import time; time.sleep({DAEMON_SECONDS})"]
    shell = f"sleep {DAEMON_SECONDS}"
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"start_new_session": True},
        {"env": {}},
        {"env": {}, "start_new_session": True},
        {"env": {}, "start_new_session": True, "cwd": "/"},
    )
    for options in kinds:
        subprocess.Popen(sleeper, **options)
        subprocess.Popen(["/bin/sh", "-c", f"setsid {shell} >/dev/null 2>&1 &"], **options)
        subprocess.Popen(
            ["/bin/sh", "-c", f"(setsid {shell} &) & trap '' 15 1; {shell}"], **options
        )
    for depth in (1, 2, 3):
        if not os.fork():
            for _ in range(depth):
                os.setsid()
                if os.fork():
                    os._exit(0)
            _libc().prctl(1, 0, 0, 0, 0)  # It does not die with its parent.
            _libc().prctl(36, 1, 0, 0, 0)  # It takes orphans itself.
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            os.execve(sys.executable, sleeper, {})
    if task.payload == b"unset":
        _libc().prctl(36, 0, 0, 0, 0)
    if task.payload == b"die":
        os._exit(1)
    if task.payload == b"stay":
        time.sleep(60)
    return "left"


@task_handler("kill_keeper")
def kill_keeper(task: TaskContext) -> str:
    """Where nothing hides them: kill the processes above this one, up to the launcher."""
    daemons(task)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(30)
    return "alive"


@task_handler("grow")
def grow(task: TaskContext) -> str:
    """Use 1 GiB, slowly enough to be seen and to spare the machine."""
    kept: list[Any] = []
    kind = task.payload.decode()
    for _ in range(64):
        if kind == "bytes":
            kept.append(bytearray(b"x") * 2**24)
        elif kind == "mapped":
            kept.append(mmap.mmap(-1, 2**24))
            kept[-1].write(b"x" * 2**24)
        elif kind == "arrow":
            import pyarrow as pa

            kept.append(pa.repeat(1, 2**21))
        elif not os.fork():
            kept.append(bytearray(b"x") * 2**24)
            time.sleep(60)
        time.sleep(0.01)
    time.sleep(60)
    return "grown"


@task_handler("grow_at_once")
def grow_at_once(task: TaskContext) -> str:
    return str(len(bytearray(2**40)))


@task_handler("many_processes")
def many_processes(task: TaskContext) -> str:
    for _ in range(600):
        if not os.fork():
            time.sleep(60)
            os._exit(0)
    time.sleep(60)
    return "many"


@task_handler("litter")
def litter(task: TaskContext) -> str:
    """Files wherever they can be made; what is deep, and what its owner may not enter."""
    for place in (task.scratch, task.scratch.parent, Path("/dev/shm"), Path("/tmp")):
        try:
            (place / f"litter-{MARK}").write_text("x")
            (place / f"shut-{MARK}").mkdir()
            (place / f"shut-{MARK}" / "x").write_text("x")
            (place / f"shut-{MARK}").chmod(0)
        except OSError:
            pass
    os.chdir(task.scratch)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    task.scratch.parent.chmod(0)
    return "littered"


@task_handler("change_process")
def change_process(task: TaskContext) -> str:
    os.chdir(task.scratch)
    os.umask(0o777)
    os.environ["LANG"] = "xx"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    socket.setdefaulttimeout(0.001)
    sys.path.insert(0, str(task.scratch))
    os.path.basename = lambda _path: "patched"  # type: ignore[assignment]
    globals()["GOOD"] = "changed"
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    for _ in range(100):
        os.dup(0)
    return "changed"


@task_handler("state_of_process")
def state_of_process(task: TaskContext) -> dict[str, Any]:
    mask = os.umask(0)
    os.umask(mask)
    shared = Path("/dev/shm")
    return {
        "cwd": os.getcwd(),
        "mask": mask,
        "lang": os.environ.get("LANG", ""),
        "signals": [str(signal.getsignal(signal.SIGINT)), len(signal.pthread_sigmask(0, ()))],
        "timeout": socket.getdefaulttimeout(),
        "path": len(sys.path),
        "patched": os.path.basename("/a/b") == "patched",
        "global": str(GOOD),
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "scratch": os.listdir(task.scratch.parent) == [task.scratch.name]
        and not os.listdir(task.scratch),
        "shared": sorted(os.listdir(shared)) if os.getppid() == 1 else [],
        "processes": len([n for n in os.listdir("/proc") if n.isdigit()])
        if os.getppid() == 1
        else 2,
    }


@task_handler("print_without_end")
def print_without_end(task: TaskContext) -> str:
    for _ in range(400):
        os.write(1, os.urandom(2**18))
    os.write(2, b"the end")
    raise RuntimeError("with a traceback")


@task_handler("stop_itself")
def stop_itself(task: TaskContext) -> str:
    os.kill(os.getpid(), signal.SIGSTOP)
    return "went on"


@task_handler("names_in_environment")
def names_in_environment(task: TaskContext) -> list[str]:
    return sorted(os.environ)
