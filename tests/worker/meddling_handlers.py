"""Handlers that change their keeper, start many threads, fail in odd ways, or return odd results."""

import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipfs_cluster_node.adapters.worker import inherited
from ipfs_cluster_node.tasks import TaskContext, TaskError, TaskResult, task_handler

KEEPER_CHANGES: dict[str, Callable[[int], Any]] = {
    "file size": lambda keeper: resource.prlimit(keeper, resource.RLIMIT_FSIZE, (0, 0)),
    "data": lambda keeper: resource.prlimit(keeper, resource.RLIMIT_DATA, (2**30, 2**30)),
    "soft data": lambda keeper: resource.prlimit(keeper, resource.RLIMIT_DATA, (2**30, -1)),
    "open files": lambda keeper: resource.prlimit(keeper, resource.RLIMIT_NOFILE, (64, 64)),
    "no open files": lambda keeper: resource.prlimit(keeper, resource.RLIMIT_NOFILE, (3, 3)),
    "nice": lambda keeper: os.setpriority(os.PRIO_PROCESS, keeper, 19),
    "affinity": lambda keeper: os.sched_setaffinity(keeper, {min(os.sched_getaffinity(0))}),
    "scheduler": lambda keeper: os.sched_setscheduler(keeper, os.SCHED_BATCH, os.sched_param(0)),
}


@task_handler("keeper")
def keeper(task: TaskContext) -> str:
    KEEPER_CHANGES[task.payload.decode()](os.getppid())
    return "changed"


@task_handler("starts")
def starts(task: TaskContext) -> dict[str, Any]:
    """What this attempt began with."""
    return {
        "limits": [resource.getrlimit(each) for each in inherited.LIMITS],
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "affinity": sorted(os.sched_getaffinity(0)),
        "scheduler": os.sched_getscheduler(0),
        "cwd": str(Path.cwd()),
        "path": sys.path,
    }


@task_handler("own_limits")
def own_limits(task: TaskContext) -> str:
    """Lower its own limits and priority, and say nothing of it."""
    found = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, found + 1)
    return str(found)


@task_handler("threads")
def threads(task: TaskContext) -> str:
    threading.stack_size(2**16)
    for _ in range(int(task.payload)):
        threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
    time.sleep(20)
    return "ended"


@task_handler("read")
def read(task: TaskContext) -> str:
    return Path(task.payload.decode()).read_text()


@task_handler("fill_shared_memory")
def fill_shared_memory(task: TaskContext) -> str:
    for count in range(int(task.payload)):
        try:
            os.close(os.open(f"/dev/shm/{count}", os.O_CREAT | os.O_WRONLY))
        except OSError as error:
            return f"{count} {error.strerror}"
    return "all"


class _BareError(TaskError):
    def __init__(self, word: str) -> None:
        self.word = word

    def __str__(self) -> str:
        return f"of {self.word}"


class _PropertyError(TaskError):
    @property
    def reason(self) -> Any:
        raise RuntimeError("no")

    @reason.setter
    def reason(self, value: Any) -> None:
        pass


class _Exits:
    def __str__(self) -> str:
        raise SystemExit(3)


class _Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self

    def encode(self, *_: Any) -> bytes:
        raise RuntimeError("no")

    def __getitem__(self, _: Any) -> str:
        raise RuntimeError("no")


class _ExitsError(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)


class _NamedBy(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit(5)


class _NamelessError(Exception, metaclass=_NamedBy):
    pass


def _raise(error: BaseException) -> None:
    raise error


def _without_stderr() -> None:
    sys.stderr = None
    raise ValueError("my words")


def _with_closed_stderr() -> None:
    sys.stderr.close()
    raise ValueError("my words")


def _with_closed_descriptors() -> None:
    os.close(1)
    os.close(2)
    raise ValueError("my words")


FAILURES: dict[str, Callable[[], None]] = {
    "bare": lambda: _raise(_BareError("my words")),
    "property": lambda: _raise(_PropertyError("QUOTA", "my words")),
    "message exits": lambda: _raise(TaskError("QUOTA", _Exits())),  # type: ignore[arg-type]
    "reason exits": lambda: _raise(TaskError(_Exits(), "my words")),  # type: ignore[arg-type]
    "text": lambda: _raise(TaskError("QUOTA", _Text("my words"))),
    "text as reason": lambda: _raise(TaskError(_Text("QUOTA"), "my words")),
    "error exits": lambda: _raise(_ExitsError()),
    "nameless": lambda: _raise(_NamelessError("my words")),
    "no stderr": _without_stderr,
    "closed stderr": _with_closed_stderr,
    "closed descriptors": _with_closed_descriptors,
}


@task_handler("fails")
def fails(task: TaskContext) -> None:
    FAILURES[task.payload.decode()]()


@task_handler("closes_stdout")
def closes_stdout(task: TaskContext) -> str:
    sys.stdout.close()
    return "good"


@task_handler("stdout_raises")
def stdout_raises(task: TaskContext) -> str:
    class _Stream:
        def flush(self) -> None:
            raise SystemExit(1)

    sys.stdout = _Stream()
    return "good"


RESULTS: dict[str, Callable[[], Any]] = {
    "surrogate": lambda: {"a": "\ud800"},
    "surrogate key": lambda: [{"\udfff": 1}],
    "keys": lambda: {1: "a", "1": "b"},
    "inner keys": lambda: [{"x": {None: 1, "null": 2}}],
    "control": lambda: TaskResult(data=b"x", content_type="text/\x1b[31m\r\nX: y"),
}


@task_handler("returns")
def returns(task: TaskContext) -> Any:
    return RESULTS[task.payload.decode()]()


@task_handler("emoji")
def emoji(task: TaskContext) -> Any:
    return {"a": "\U0001f600", 1: 2, "b": [{}]}
