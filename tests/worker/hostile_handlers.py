"""Handlers that attack: their node, other attempts, the machine. Each tells what it got."""

import ctypes
import gc
import json
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ipfs_cluster_node.core.model import RESULT_INLINE_BYTES_MAX
from ipfs_cluster_node.tasks import TaskContext, TaskError, TaskResult, task_handler

MARK_VARIABLE = "TZ"
"""One of the few that handlers are given: the test run that they belong to, as a number."""
MARK = os.environ.get(MARK_VARIABLE, "")
DAEMON_SECONDS = f"86399.{MARK}"
"""In the command line of every daemon of one test run's handlers, and of no other process."""


def channel() -> socket.socket:
    """The socket to the node, as a handler finds it."""
    [found] = [
        each
        for each in gc.get_objects()
        if type(each) is socket.socket and each.fileno() >= 0 and each.family == socket.AF_UNIX
    ]
    return found


def identity() -> dict[str, Any]:
    """Task, attempt and nonce, from the frames that called the handler."""
    frame: Any = sys._getframe()
    while "identity" not in frame.f_locals or not isinstance(frame.f_locals["identity"], dict):
        frame = frame.f_back
    return dict(frame.f_locals["identity"])


def frame(header: Any, body: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<II", len(encoded), len(body)) + encoded + body


GOOD = {"kind": "result", "content_type": "text/plain", "file": None, "clean": True}
FAILED = {
    "kind": "failure",
    "reason": "HANDLER_FAILED",
    "message": "m",
    "retryable": False,
    "clean": True,
}


def forgeries(me: dict[str, Any]) -> dict[str, bytes]:
    """Frames that no runner of ours sends, by name."""
    good, failed = {**me, **GOOD}, {**me, **FAILED}
    progress = {**me, "kind": "progress", "ratio": 0.5, "note": "n"}
    return {
        "twice": frame(good, b"forged") * 2,
        "answer and more": frame(good, b"forged") + b"\0",
        "answer and failure": frame(good, b"forged") + frame(failed),
        "other nonce": frame({**good, "nonce": "0" * 32}, b"forged"),
        "other attempt": frame({**good, "attempt": me["attempt"] + 1}, b"forged"),
        "other task": frame({**good, "task_id": "other"}, b"forged"),
        "attempt as text": frame({**good, "attempt": str(me["attempt"])}, b"forged"),
        "attempt as truth": frame({**good, "attempt": True}, b"forged"),
        "retryable null": frame({**failed, "retryable": None}),
        "retryable number": frame({**failed, "retryable": 1}),
        "reason of ours": frame({**failed, "reason": "WORKER_LOST", "retryable": True}),
        "reason unknown": frame({**failed, "reason": "QUOTA"}),
        "reason a list": frame({**failed, "reason": ["HANDLER_FAILED"]}),
        "message too long": frame({**failed, "message": "m" * 5000}),
        "message half a character": frame({**failed, "message": "\ud800"}),
        "message null": frame({**failed, "message": None}),
        "type too long": frame({**good, "content_type": "t" * 129}, b"forged"),
        "type a number": frame({**good, "content_type": 1}, b"forged"),
        "file a number": frame({**good, "file": 1}, b"forged"),
        "file a list": frame({**good, "file": ["x"]}, b"forged"),
        "file and much data": frame({**good, "file": "there"}, bytes(70_000)),
        "clean null": frame({**good, "clean": None}, b"forged"),
        "kind unknown": frame({**good, "kind": "success"}, b"forged"),
        "kind a number": frame({**good, "kind": 1}, b"forged"),
        "a field more": frame({**good, "ok": True}, b"forged"),
        "a field less": frame({k: v for k, v in good.items() if k != "file"}, b"forged"),
        "a field twice": frame(json.dumps(good).encode()[:-1] + b', "file": null}', b"forged"),
        "failure with bytes": frame(failed, b"forged"),
        "progress with bytes": frame(progress, b"forged"),
        "progress beyond": frame({**progress, "ratio": 2}),
        "progress infinite": frame(json.dumps({**progress, "ratio": float("inf")}).encode()),
        "progress not a number": frame(json.dumps({**progress, "ratio": float("nan")}).encode()),
        "progress a text": frame({**progress, "ratio": "0.5"}),
        "progress huge": frame(json.dumps({**progress, "ratio": 1}).encode()[:-1] + b"e999}"),
        "note too long": frame({**progress, "note": "n" * 257}),
        "no object": frame([good]),
        "no JSON": frame(b"{"),
        "deep": frame(b"[" * 100_000),
        "large number": frame(b'{"attempt": ' + b"9" * 100_000 + b"}"),
        "header too large": struct.pack("<II", 2**20 + 1, 0),
        "body too large": struct.pack("<II", 2, 2**26 + 1) + b"{}",
        "largest sizes": struct.pack("<II", 2**32 - 1, 2**32 - 1),
        "empty": struct.pack("<II", 0, 0),
        "cut": frame(good, b"forged")[:-3],
    }


@task_handler("forge")
def forge(task: TaskContext) -> bytes:
    name = task.payload.decode()
    channel().sendall(forgeries(identity())[name])
    if name == "cut":
        os._exit(0)
    return b"honest"


@task_handler("names_of_forgeries")
def names(task: TaskContext) -> list[str]:
    return sorted(forgeries({"task_id": "t", "attempt": 1, "nonce": "n"}))


@task_handler("forge_by_chance")
def forge_by_chance(task: TaskContext) -> bytes:
    """A good frame with some bytes changed: whatever is taken of it is the attempt's own."""
    chance = random.Random(int(task.payload))
    data = bytearray(frame({**identity(), **GOOD}, b"forged"))
    for _ in range(chance.randint(1, 6)):
        where = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                data[where] = chance.randrange(256)
            case 1:
                del data[where]
            case 2:
                data.insert(where, chance.randrange(256))
    channel().sendall(bytes(data))
    os._exit(0)


@task_handler("flood_of_progress")
def flood_of_progress(task: TaskContext) -> str:
    one = frame({**identity(), "kind": "progress", "ratio": 0.1, "note": "n" * 256})
    while True:
        channel().sendall(one)


@task_handler("forge_file")
def forge_file(task: TaskContext) -> TaskResult:
    """Name as result what is not the attempt's; `payload`: what, and the node's key."""
    what, key = json.loads(task.payload)
    here = task.scratch
    name = "r"
    match what:
        case "absolute":
            name = key
        case "upwards":
            name = os.path.relpath(key, here)
        case "link":
            (here / name).symlink_to(key)
        case "link on the way":
            (here / "d").symlink_to(Path(key).parent)
            name = f"d/{Path(key).name}"
        case "link to itself":
            (here / name).symlink_to(name)
        case "hard link":
            os.link(key, here / name)
        case "hard link to a program":
            os.link("/bin/true", here / name)
        case "two names":
            (here / name).write_text("r")
            os.link(here / name, here / "s")
        case "pipe":
            os.mkfifo(here / name)
        case "socket":
            socket.socket(socket.AF_UNIX).bind(str(here / name))
        case "device":
            name = "/dev/zero"
        case "linked device":
            (here / name).symlink_to("/dev/zero")
        case "directory":
            (here / name).mkdir()
        case "the directory":
            name = "."
        case "nothing":
            pass
        case "empty name":
            name = ""
        case "zero":
            name = "a\0b"
        case "other process":
            name = f"/proc/{os.getppid()}/environ"
        case "unreadable":
            (here / name).write_text("r")
            (here / name).chmod(0)
            if os.getuid() == 0:
                name = "nowhere"
        case "replaced directory":
            here.rename(here.parent / "away")
            here.symlink_to(Path(key).parent)
            name = Path(key).name
    channel().sendall(frame({**identity(), **GOOD, "file": name}))
    time.sleep(30)
    return TaskResult()


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


@task_handler("answer_later")
def answer_later(task: TaskContext) -> bytes:
    """A thread and a child go on, and answer for whoever comes next."""
    good = frame({**identity(), **GOOD}, b"forged")
    connection = channel()

    def forever() -> None:
        while True:
            time.sleep(0.001)
            try:
                connection.sendall(good)
            except OSError:
                return

    if not os.fork():
        os.setsid()
        if not os.fork():
            time.sleep(0.05)
            forever()
        os._exit(0)
    threading.Timer(0.05, forever).start()
    return b"honest"


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


@task_handler("honest")
def honest(task: TaskContext) -> bytes:
    return b"of " + task.payload


@task_handler("print_without_end")
def print_without_end(task: TaskContext) -> str:
    for _ in range(400):
        os.write(1, os.urandom(2**18))
    os.write(2, b"the end")
    raise RuntimeError("with a traceback")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit(7)


@task_handler("raise_oddly")
def raise_oddly(task: TaskContext) -> Any:
    what = task.payload.decode()
    odd: dict[str, Any] = {
        "exit": SystemExit(0),
        "interrupt": KeyboardInterrupt(),
        "generator": GeneratorExit(),
        "unspeakable": Unspeakable(),
        "reason": TaskError("QUOTA", "no more of these today"),
        "reason list": TaskError(["x"], "words"),  # type: ignore[arg-type]
        "ours": TaskError("WORKER_LOST", "words", retryable=True),
        "retryable": TaskError("SQL_FAILED", "words", retryable=None),  # type: ignore[arg-type]
        "message": TaskError("SQL_FAILED", object()),  # type: ignore[arg-type]
    }
    if what in odd:
        raise odd[what]
    loop: list[Any] = []
    loop.append(loop)
    return {
        "infinity": {"mean": [1.0, {"x": float("inf")}]},
        "nan": [float("nan")],
        "loop": loop,
        "object": {"a": object()},
        "keys": {(1, 2): 3},
        "text": "\ud800",
        "data": TaskResult(data="text"),  # type: ignore[arg-type]
        "type": TaskResult(content_type="x" * 129),
        "type half": TaskResult(content_type="\ud800"),
        "type none": TaskResult(content_type=None),  # type: ignore[arg-type]
        "file": TaskResult(file=7),  # type: ignore[arg-type]
        "file name": TaskResult(file=Path("\ud800")),
        "large": TaskResult(data=bytes(80_000), file=Path("x")),
        "huge": bytes(2**26 + 1),
    }[what]


@task_handler("stop_itself")
def stop_itself(task: TaskContext) -> str:
    os.kill(os.getpid(), signal.SIGSTOP)
    return "went on"


@task_handler("reused")
def reused(task: TaskContext) -> str:
    """Runs in a process that is kept, and does as told."""
    if task.payload == b"chdir":
        os.chdir("/")
    elif task.payload == b"thread":
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    elif task.payload == b"child":
        subprocess.Popen(["/bin/sleep", DAEMON_SECONDS])
    elif task.payload == b"child, and says clean":
        subprocess.Popen(["/bin/sleep", DAEMON_SECONDS])
        channel().sendall(frame({**identity(), **GOOD}, str(os.getpid()).encode()))
        time.sleep(60)
    elif task.payload == b"child later":
        threading.Timer(0.1, subprocess.Popen, [["/bin/sleep", DAEMON_SECONDS]]).start()
        channel().sendall(frame({**identity(), **GOOD}, str(os.getpid()).encode()))
        time.sleep(60)
    elif task.payload == b"memory later":
        channel().sendall(frame({**identity(), **GOOD}, str(os.getpid()).encode()))
        time.sleep(0.1)
        kept = b"x" * 2**29
        time.sleep(60 + len(kept) % 2)
    elif task.payload == b"twice":
        channel().sendall(frame({**identity(), **GOOD}, b"forged"))
    elif task.payload == b"leave":
        (task.scratch / "left").write_text("x")
    elif task.payload == b"leave beside":
        (task.scratch.parent / "left").write_text("x")
    elif task.payload == b"mode":
        task.scratch.chmod(0o500)
    elif task.payload == b"replace":
        task.scratch.rmdir()
        task.scratch.symlink_to("/")
    elif task.payload == b"look":
        mode = task.scratch.lstat().st_mode
        return f"{os.listdir(task.scratch.parent)} {os.listdir(task.scratch)} {mode:o}"
    return str(os.getpid())


@task_handler("claim_to_be_clean")
def claim_to_be_clean(task: TaskContext) -> None:
    """Answers for its runner, and goes on; it did not declare that it leaves nothing."""
    channel().sendall(frame({**identity(), **GOOD, "clean": True}, b"its own"))
    time.sleep(60)


@task_handler("large_beside_a_file")
def large_beside_a_file(task: TaskContext) -> None:
    """Sends more beside a file than the leader takes, past the runner's own check."""
    (task.scratch / "r").write_text("r")
    head = {**identity(), **GOOD, "file": "r"}
    channel().sendall(frame(head, bytes(RESULT_INLINE_BYTES_MAX + 1)))
    time.sleep(60)


@task_handler("names_in_environment")
def names_in_environment(task: TaskContext) -> list[str]:
    return sorted(os.environ)
