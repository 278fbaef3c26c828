"""The process that handlers run in: one attempt at a time, until its socket closes."""

import asyncio
import ctypes
import inspect
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.adapters.worker.confinement import confine
from ipfs_cluster_node.adapters.worker.frames import (
    BODY_BYTES_MAX,
    HEAD,
    encode_frame,
    frame_sizes,
)
from ipfs_cluster_node.adapters.worker.registry import load_handlers
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.tasks import (
    Handler,
    TaskContext,
    TaskError,
    TaskInputFile,
    TaskResult,
)

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
MESSAGE_CHARS_MAX: Final = 1000


def main() -> None:
    """Serve a socket.

    Arguments: its descriptor, the node's process id, how many paths are hidden from handlers,
    those, and the modules of handlers.
    """
    descriptor, parent, hidden_count, *names = sys.argv[1:]
    hidden = [Path(name) for name in names[: int(hidden_count)]]
    unconfined = ""
    try:
        if hidden:
            confine(hidden)
    except OSError as error:
        unconfined = str(error)
    libc = ctypes.CDLL(None)
    # Dies with the node, and keeps orphans of a handler in its own tree, where they are found.
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != int(parent):
        return
    connection = socket.socket(fileno=int(descriptor))
    connection.set_inheritable(False)
    handlers = load_handlers(names[int(hidden_count) :])
    connection.sendall(encode_frame({"ready": True, "unconfined": unconfined}))
    with asyncio.Runner() as runner:
        while (frame := _read(connection)) is not None:
            header, body = _serve(connection, handlers, runner, *frame)
            connection.sendall(encode_frame(header, body))


def _serve(
    connection: socket.socket,
    handlers: dict[str, Handler],
    runner: asyncio.Runner,
    header: dict[str, Any],
    payload: bytes,
) -> tuple[dict[str, Any], bytes]:
    def report(ratio: float, note: str) -> None:
        news = {"progress": float(ratio), "note": str(note)[:256]}
        connection.sendall(encode_frame(news))

    task = TaskContext(
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
    try:
        result: Any = handlers[task.task_type](task)
        if inspect.isawaitable(result):
            result = runner.run(_awaited(result))
        return _encode(result, task.scratch)
    except TaskError as error:
        return _failure(error.reason, error.message, retryable=error.retryable), b""
    except Exception as error:  # Whatever a handler raises is its failure.
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        return _failure(Reason.HANDLER_FAILED, message, retryable=True), b""


async def _awaited(result: Any) -> Any:
    return await result


def _encode(result: Any, scratch: Path) -> tuple[dict[str, Any], bytes]:
    match result:
        case None:
            result = TaskResult()
        case bytes():
            result = TaskResult(data=result)
        case str():
            result = TaskResult(data=result.encode(), content_type="text/plain; charset=utf-8")
        case dict() | list():
            data = json.dumps(result).encode()
            result = TaskResult(data=data, content_type="application/json")
        case TaskResult():
            pass
        case _:
            raise TypeError(
                f"a handler returns bytes, text, JSON or a TaskResult, not {type(result).__name__}"
            )
    if len(result.data) > BODY_BYTES_MAX:
        raise ValueError("the result is over 64 MiB; write it to a file in task.scratch")
    if result.file is not None:
        resolved = result.file.resolve()
        if not resolved.is_relative_to(scratch.resolve()) or not resolved.is_file():
            raise ValueError("a result file lies inside task.scratch")
    header = {
        "ok": True,
        "content_type": result.content_type[:128],
        "file": None if result.file is None else str(result.file),
    }
    return header, result.data


def _failure(reason: Reason, message: str, *, retryable: bool) -> dict[str, Any]:
    return {
        "ok": False,
        "reason": reason.value,
        "message": message[:MESSAGE_CHARS_MAX],
        "retryable": retryable,
    }


def _read(connection: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    head = _read_exactly(connection, HEAD.size)
    if not head:
        return None
    header_bytes, body_bytes = frame_sizes(head)
    header = json.loads(_read_exactly(connection, header_bytes))
    return header, _read_exactly(connection, body_bytes)


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(size - len(data), 1024 * 1024))
        if not piece:
            return b""
        data += piece
    return bytes(data)


if __name__ == "__main__":
    main()
