"""Handlers that answer what no runner of ours would: forged frames, files, results.

A sleep of 30 or 60 seconds stands for a handler that does not end: its pool ends it long before that.
The short ones let the node take the first answer before what they delay happens.
"""

import gc
import json
import os
import random
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


@task_handler("honest")
def honest(task: TaskContext) -> bytes:
    return b"of " + task.payload


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
