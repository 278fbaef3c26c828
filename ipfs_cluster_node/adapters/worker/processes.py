"""One handler process: started, spoken to, killed with everything it started."""

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

from ipfs_cluster_node.adapters.worker.frames import HEAD, decode_header, encode_frame, frame_sizes

log = logging.getLogger(__name__)

MARKER_VARIABLE: Final = "IPFS_CLUSTER_NODE_HANDLER"
MEMORY_VARIABLE: Final = "IPFS_CLUSTER_NODE_TASK_MEMORY_BYTES"
PASSED_VARIABLES: Final = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
"""What a handler sees of the node's environment; secrets stay behind."""
START_SECONDS_MAX: Final = 30.0
KILL_SECONDS_MAX: Final = 2.0
OUTPUT_LINE_BYTES: Final = 4096


class HandlerProcess:
    """A process that runs one attempt at a time."""

    def __init__(self, process: asyncio.subprocess.Process, marker: str) -> None:
        """Take a started process; `start` makes one."""
        self._process = process
        self._marker = marker
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._output: asyncio.Task[None]
        self.unconfined = ""
        """Why nothing could be hidden from it; empty if it is, or nothing was to be."""

    @classmethod
    async def start(
        cls, modules: Sequence[str], memory_bytes_max: int, hidden: Sequence[Path] = ()
    ) -> "HandlerProcess":
        """Start a process and wait until it has loaded its handlers.

        Args:
            modules: Where they are.
            memory_bytes_max: What they are told that they may use.
            hidden: What they must not see, as far as this machine can hide it.

        Raises:
            OSError, TimeoutError: It did not come up; its output is in the log.
        """
        ours, theirs = socket.socketpair()
        marker = secrets.token_hex(16)
        environment = {k: os.environ[k] for k in PASSED_VARIABLES if k in os.environ}
        environment |= {
            MARKER_VARIABLE: marker,
            MEMORY_VARIABLE: str(memory_bytes_max),
            "PYTHONUNBUFFERED": "1",
            "HOME": "/nonexistent",
        }
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ipfs_cluster_node.adapters.worker.handler_process",
                str(theirs.fileno()),
                str(os.getpid()),
                str(len(hidden)),
                *map(str, hidden),
                *modules,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=environment,
                limit=OUTPUT_LINE_BYTES,
            )
        self = cls(process, marker)
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        self._output = asyncio.create_task(self._log_output(), name="handler-output")
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                header, _ = await self.read()
            self.unconfined = str(header.get("unconfined", ""))
        except BaseException as error:
            await self.kill()
            if isinstance(error, asyncio.IncompleteReadError):
                raise OSError("a handler process did not start") from error
            raise
        return self

    async def write(self, header: dict[str, Any], body: bytes) -> None:
        """Send a frame."""
        self._writer.write(encode_frame(header, body))
        await self._writer.drain()

    async def read(self) -> tuple[dict[str, Any], bytes]:
        """Read a frame.

        Raises:
            asyncio.IncompleteReadError: The process is gone.
            ValueError: It sent no frame.
        """
        header_bytes, body_bytes = frame_sizes(await self._reader.readexactly(HEAD.size))
        header = decode_header(await self._reader.readexactly(header_bytes))
        return header, await self._reader.readexactly(body_bytes)

    @property
    def has_children(self) -> bool:
        """Whether the last attempt left processes behind."""
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        try:
            return bool(path.read_bytes().strip())
        except OSError:
            return True

    async def how_it_died(self) -> str:
        """What to tell of a process that is gone."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._process.wait()
        code = self._process.returncode
        if code is None:
            return "closed its connection"
        return f"died (signal {-code})" if code < 0 else f"ended with status {code}"

    async def kill(self) -> None:
        """Kill the process and all it started; returns when none is left."""
        await asyncio.to_thread(_kill_tree, self._process.pid, self._marker)
        self._writer.close()
        self._output.cancel()
        with suppress(asyncio.CancelledError):
            await self._output
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def _log_output(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:  # A line over the limit: what there is of it was dropped.
                continue
            if not line:
                return
            text = line.decode("utf-8", "backslashreplace").rstrip()
            log.info("handler output", extra={"line": text, "pid": self._process.pid})


def _kill_tree(pid: int, marker: str) -> None:
    """Kill a handler process last and its descendants first: orphans come back to it meanwhile."""
    ends = time.monotonic() + KILL_SECONDS_MAX
    try:
        handler = psutil.Process(pid)
        handler.suspend()  # It starts nothing more.
        while (children := _alive(handler)) and time.monotonic() < ends:
            for child in children:
                with suppress(psutil.Error):
                    child.kill()
            time.sleep(0.002)
        handler.kill()
    except psutil.Error:
        pass  # Gone already; what it left carries the marker.
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    while (left := _marked(marker, but=pid)) and time.monotonic() < ends:
        for other in left:
            with suppress(OSError):
                os.kill(other, signal.SIGKILL)
        time.sleep(0.01)
    if left:
        log.error("processes of a handler survived", extra={"pids": left})


def _alive(handler: psutil.Process) -> list[psutil.Process]:
    """List descendants; not the dead ones, which a suspended parent does not collect."""
    alive = []
    for child in handler.children(recursive=True):
        with suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE:
                alive.append(child)
    return alive


def _marked(marker: str, *, but: int) -> list[int]:
    wanted = f"{MARKER_VARIABLE}={marker}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != but:
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue  # Gone, or another user's.
    return found
