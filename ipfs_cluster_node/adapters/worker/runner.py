"""A runner: the process in which an attempt's handler runs.

It is forked with the handlers loaded, and ends after one attempt, unless the node lets it continue
and the handler left nothing behind.
"""

import _signal  # type: ignore[import-not-found]
import asyncio
import errno
import inspect
import json
import math
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.adapters.worker import linux
from ipfs_cluster_node.adapters.worker.answers import FILE_CHARS_MAX, NODES_REASONS
from ipfs_cluster_node.adapters.worker.frames import (
    BODY_BYTES_MAX,
    HEAD,
    encode_frame,
    frame_sizes,
)
from ipfs_cluster_node.adapters.worker.inherited import inherited, lower
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import (
    CONTENT_TYPE_CHARS_MAX,
    MESSAGE_CHARS_MAX,
    NOTE_CHARS_MAX,
    RESULT_INLINE_BYTES_MAX,
)
from ipfs_cluster_node.tasks import (
    Handler,
    TaskContext,
    TaskError,
    TaskInputFile,
    TaskResult,
)

PROGRESS_INTERVAL_SECONDS: Final = 0.05
"""Shortest time between two frames of progress; others are dropped."""
ADDRESS_SPACE_EXTRA_BYTES: Final = 4 * 2**30
"""Beyond an attempt's memory: reserved memory is not used memory, and the node watches usage."""
OPEN_FILES_MAX: Final = 4096
"""Limit of each process of an attempt."""
START_FAILED_STATUS: Final = 97
"""Exit status of a runner that could not start serving."""
WATCHED_SIGNALS: Final = tuple(map(int, signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))


class InvalidResultError(Exception):
    """A handler returned an invalid result; the message says what to return."""


def run(channel: int, output: int, handlers: dict[str, Handler], memory_bytes_max: int) -> None:
    """Serve a socket until it closes or a handler may have left something behind."""
    try:
        connection = socket.socket(fileno=channel)
        _start(output, memory_bytes_max)
        runner = _Runner(connection, handlers)
    except BaseException:
        _print_failure()
        os._exit(START_FAILED_STATUS)
    try:
        while runner.serve():
            pass
    except BaseException:
        _print_failure()
        os._exit(1)
    _flush()
    os._exit(0)


def _start(output: int, memory_bytes_max: int) -> None:
    os.setsid()
    linux.die_with_parent()
    # The keeper is not dumpable, so that handlers can't trace it; runners may be.
    linux.set_process(linux.PR_SET_DUMPABLE, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    lower(resource.RLIMIT_DATA, memory_bytes_max + ADDRESS_SPACE_EXTRA_BYTES)
    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_NOFILE, OPEN_FILES_MAX)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()  # Otherwise all runners would draw the same numbers.


class _Runner:
    """Runs attempts, one after the other."""

    def __init__(self, connection: socket.socket, handlers: dict[str, Handler]) -> None:
        self._connection = connection
        self._handlers = handlers
        self._loops: asyncio.Runner | None = None
        self._traces = _traces()

    def serve(self) -> bool:
        """Run one attempt; returns whether another may follow."""
        request = _read(self._connection)
        if request is None:
            return False
        header, payload = request
        identity = {key: header[key] for key in ("task_id", "attempt", "nonce")}
        handler = self._handlers[header["task_type"]]
        task = self._context(header, payload, identity)
        # Libraries fail if they can't write caches and settings to HOME.
        os.environ["TMPDIR"] = os.environ["HOME"] = header["scratch"]
        tempfile.tempdir = None
        answer, body = self._answer(handler, task)
        clean = bool(header["keep"]) and _traces() == self._traces
        _flush()
        self._connection.sendall(encode_frame({**identity, **answer, "clean": clean}, body))
        return clean

    def _context(
        self, header: dict[str, Any], payload: bytes, identity: dict[str, Any]
    ) -> TaskContext:
        lock = threading.Lock()
        said = [-1.0]

        def report(ratio: float, note: str) -> None:
            ratio = float(ratio)
            if math.isnan(ratio):
                raise ValueError("progress is a number from 0 to 1")
            news = {
                "kind": "progress",
                "ratio": min(1.0, max(0.0, ratio)),
                "note": _text(note, NOTE_CHARS_MAX),
            }
            with lock:
                now = time.monotonic()
                if now - said[0] >= PROGRESS_INTERVAL_SECONDS:
                    said[0] = now
                    self._connection.sendall(encode_frame({**identity, **news}))

        return TaskContext(
            task_id=header["task_id"],
            attempt=header["attempt"],
            task_type=header["task_type"],
            payload=payload,
            content_type=header["content_type"],
            inputs={
                name: TaskInputFile(Path(path), cid, file_format)
                for name, (path, cid, file_format) in header["inputs"].items()
            },
            scratch=Path(header["scratch"]),
            _report=report,
        )

    def _answer(self, handler: Handler, task: TaskContext) -> tuple[dict[str, Any], bytes]:
        try:
            result: Any = handler(task)
            if inspect.isawaitable(result):
                self._loops = self._loops or asyncio.Runner()
                result = self._loops.run(_awaited(result))
            return encode_result(result, task.scratch)
        except TaskError as error:
            reason, message = _reason(error)
            return _failure(reason, message, retryable=_attribute(error, "retryable") is True), b""
        except InvalidResultError as error:
            return _failure(Reason.TASK_RESULT_INVALID, str(error), retryable=False), b""
        except MemoryError as error:
            _print_failure()
            message = f"the handler ran out of memory ({_words(error)}); {MEMORY_ADVICE}"
            return _failure(Reason.TASK_MEMORY_EXCEEDED, message, retryable=False), b""
        except BaseException as error:  # Anything that a handler raises is its failure.
            _print_failure()
            message = f"{_name(error)}: {_words(error)}{_way_out(error)}"
            return _failure(Reason.HANDLER_FAILED, message, retryable=True), b""


NAME_CHARS_MAX: Final = 200
SURROGATE_ESCAPE: Final = "\\ud"
MEMORY_ADVICE: Final = "give it less at once, or raise tasks.memory_max on the workers"


async def _awaited(result: Any) -> Any:
    return await result


def encode_result(result: Any, scratch: Path) -> tuple[dict[str, Any], bytes]:
    """The header and body of a handler's answer; raises InvalidResultError."""
    match result:
        case None:
            result = TaskResult()
        case bytes():
            result = TaskResult(data=result)
        case str():
            result = TaskResult(data=_utf8(result), content_type="text/plain; charset=utf-8")
        case dict() | list():
            result = TaskResult(data=_json(result), content_type="application/json")
        case TaskResult():
            pass
        case _:
            raise InvalidResultError(
                f"a handler returns bytes, text, JSON or a TaskResult, not {type(result).__name__}"
            )
    data, content_type = result.data, result.content_type
    if not isinstance(data, bytes):
        raise InvalidResultError(f"the data of a TaskResult is bytes, not {type(data).__name__}")
    if not isinstance(content_type, str) or len(content_type) > CONTENT_TYPE_CHARS_MAX:
        raise InvalidResultError(
            f"a content type is text of at most {CONTENT_TYPE_CHARS_MAX} characters"
        )
    _utf8(content_type)
    if not content_type.isprintable():
        raise InvalidResultError("a content type has no control characters; leave them out")
    if len(data) > BODY_BYTES_MAX:
        raise InvalidResultError(
            f"the result is over {BODY_BYTES_MAX // 2**20} MiB; write it to a file in task.scratch"
        )
    file = None if result.file is None else _beneath(result.file, scratch)
    if file is not None and len(data) > RESULT_INLINE_BYTES_MAX:
        raise InvalidResultError(
            f"with a file, a result has at most {RESULT_INLINE_BYTES_MAX} bytes of data, not "
            f"{len(data)}; write the rest to the file too"
        )
    return {"kind": "result", "content_type": content_type, "file": file}, data


def _json(value: Any) -> bytes:
    try:
        text = json.dumps(value, allow_nan=False)
        json.loads(text, object_pairs_hook=_distinct)
        if SURROGATE_ESCAPE in text:  # Also half of a pair, which other parsers reject.
            json.dumps(value, ensure_ascii=False).encode()
        return text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        where = _not_json(value)
        raise InvalidResultError(
            f"the result is not JSON{where} ({_words(error)}); return None or text instead"
        ) from error


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    keys: set[str] = set()
    for key, _ in pairs:
        if key in keys:
            raise ValueError(f"two keys of an object are both {key[:NAME_CHARS_MAX]!r} as text")
        keys.add(key)


def _not_json(value: Any, where: str = "result", depth: int = 0) -> str:
    """Locate the part of a value that JSON can't hold; empty if not found."""
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    elif isinstance(value, float):
        return "" if math.isfinite(value) else f": {where} is {value}"
    elif not isinstance(value, str | int | None):
        return f": {where} is of type {type(value).__name__}"
    if depth < 50:
        for key, inner in items:
            if found := _not_json(inner, f"{where}[{key!r}]"[:200], depth + 1):
                return found
    return ""


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidResultError(
            f"the result's text is not Unicode at character {error.start}; return bytes instead"
        ) from error


def _beneath(file: Any, scratch: Path) -> str:
    """A file's path within the scratch directory. The node checks for itself what is there."""
    try:
        path = Path(os.fspath(file))
        inside = str((scratch / path.parent).resolve().relative_to(scratch.resolve()) / path.name)
    except (TypeError, ValueError, OSError) as error:
        raise InvalidResultError("a result file must be inside task.scratch") from error
    if len(inside) > FILE_CHARS_MAX:
        raise InvalidResultError("the path of the result file is too long; use a shorter name")
    _utf8(inside)
    return inside


def _reason(error: TaskError) -> tuple[Reason, str]:
    # A subclass may have skipped `super().__init__`, or overridden these with properties.
    reason = _text(_attribute(error, "reason", Reason.HANDLER_FAILED), MESSAGE_CHARS_MAX)
    message = _text(_attribute(error, "message", error), MESSAGE_CHARS_MAX)
    if reason in Reason.__members__.values() and reason not in NODES_REASONS:
        return Reason(reason), message
    return Reason.HANDLER_FAILED, f"{reason}: {message}"


def _attribute(error: BaseException, name: str, default: Any = None) -> Any:
    try:
        return getattr(error, name)
    except BaseException:
        return default


def _words(error: BaseException) -> str:
    return _text(error, MESSAGE_CHARS_MAX)


def _way_out(error: BaseException) -> str:
    number = _attribute(error, "errno") if isinstance(error, OSError) else None
    if type(number) is int and number == errno.EROFS:
        return "; write to task.scratch, or name the directory in tasks.writable_paths"
    return ""


def _text(value: Any, chars_max: int) -> str:
    """Convert any object to text that can be sent, even if its methods raise."""
    try:
        # Not by its own methods: a subclass of str may override them.
        return str.encode(str(value), "utf-8", "replace").decode()[:chars_max]
    except BaseException as fault:
        return f"its text can't be made, for that fails with {_name(fault)}"


def _name(error: BaseException) -> str:
    # Not `__name__`, which a metaclass may have changed.
    name: str = type.__dict__["__name__"].__get__(type(error))
    return name[:NAME_CHARS_MAX]


def _print_failure() -> None:
    """Print the current exception, even if `sys.stderr` was replaced."""
    try:
        text = traceback.format_exc()
    except BaseException as fault:
        text = f"(its traceback can't be made: {_name(fault)})\n"
    _flush()
    left = text.encode("utf-8", "backslashreplace")
    try:
        while left:
            left = left[os.write(2, left) :]
    except OSError:
        pass


def _flush() -> None:
    """Flush the output streams, which the handler may have replaced."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except BaseException:  # noqa: S112
            continue


def _failure(reason: Reason, message: str, *, retryable: bool) -> dict[str, Any]:
    return {
        "kind": "failure",
        "reason": reason.value,
        "message": _text(message, MESSAGE_CHARS_MAX),
        "retryable": retryable,
    }


def _traces() -> Any:
    """The traces that an attempt can leave in its process, as seen from inside; per attempt.

    The node itself looks for processes left behind.
    """
    mask = os.umask(0o077)
    os.umask(mask)
    return (
        os.getcwd(),  # noqa: PTH109 (it is fast, like all of this)
        mask,
        {**os.environ._data, b"TMPDIR": b"", b"HOME": b""},  # type: ignore[attr-defined]  # noqa: SLF001
        # Without the enums of `signal`, which are slower than everything else here.
        [_signal.getsignal(each) for each in WATCHED_SIGNALS],
        _signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        os.listdir("/proc/self/fd"),  # noqa: PTH208
        socket.getdefaulttimeout(),
        tuple(sys.path),
        threading.active_count(),
        inherited(),
    )


def _read(connection: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    head = read_exactly(connection, HEAD.size)
    if not head:
        return None
    header_bytes, body_bytes = frame_sizes(head)
    header = json.loads(read_exactly(connection, header_bytes))
    return header, read_exactly(connection, body_bytes)


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """Read that many bytes; none if the other end is closed."""
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(size - len(data), 1024 * 1024))
        if not piece:
            return b""
        data += piece
    return bytes(data)
