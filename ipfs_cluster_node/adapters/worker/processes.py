"""The node's side of one handler process: a keeper and its current runner."""

import asyncio
import json
import logging
import os
import secrets
import signal
import socket
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.adapters.worker import trees
from ipfs_cluster_node.adapters.worker.answers import Identity, ProtocolError, Said, parse
from ipfs_cluster_node.adapters.worker.confinement import Place
from ipfs_cluster_node.adapters.worker.frames import HEAD, encode_frame, frame_sizes
from ipfs_cluster_node.adapters.worker.handler_process import END, ENDED, FORK, LENGTH
from ipfs_cluster_node.adapters.worker.output import Output
from ipfs_cluster_node.adapters.worker.sources import Refused, Sources
from ipfs_cluster_node.core.errors import ClusterError, Reason

log = logging.getLogger(__name__)

MARKER_VARIABLE: Final = "IPFS_CLUSTER_NODE_HANDLER"
MEMORY_VARIABLE: Final = "IPFS_CLUSTER_NODE_TASK_MEMORY_BYTES"
PASSED_VARIABLES: Final = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "VIRTUAL_ENV")
"""The part of the node's environment that handlers see; secrets are left out."""
START_SECONDS_MAX: Final = 30.0
END_SECONDS_MAX: Final = 5.0
KILL_SECONDS_MAX: Final = 2.0
READ_BYTES: Final = 1024 * 1024
SMALL_READ_BYTES: Final = 16 * 1024
START_LINES_MAX: Final = 200
START_LINE_CHARS_MAX: Final = 1000
OUTPUT_SECONDS_MAX: Final = 1.0
"""How long to wait for the last output of a killed process."""
READY_BYTES_MAX: Final = 4 * 1024 * 1024
"""Limit of what a keeper says of its start."""
SCRATCH_NAME: Final = "scratch"
SCRATCH_MODE: Final = 0o700
NOT_OPEN: Final = -1


class ConfinementError(OSError):
    """The process could not be confined; the message says what failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a pool's processes are started."""

    sources: Sources
    """What they load their handlers from."""
    memory_bytes_max: int
    scratch: Path
    """Where each gets its own directory."""
    hidden: tuple[Place, ...]
    """Paths that they must not see."""
    writable: tuple[str, ...]
    visible: tuple[str, ...] = ()
    """Directories in hidden ones that they may read."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The handlers that a process has loaded, by their task types."""

    types: frozenset[str]
    kept: frozenset[str]
    """Types of the node's own handlers, whose runners may be kept."""
    refused: tuple[Refused, ...]


class HandlerProcess:
    """A keeper with a runner; one attempt at a time."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        control: socket.socket,
        *,
        directory: Path,
        confined: bool,
    ) -> None:
        """Wrap a started process; `start` makes one."""
        self._process, self._control = process, control
        self._keeper = 0
        self.confined = confined
        self._output = asyncio.create_task(self._log_output(), name="handler-output")
        self.directory = directory
        """The directory of its handlers, named after its marker; has the scratch directory."""
        self.scratch = directory / SCRATCH_NAME
        """The scratch directory of an attempt, once `open_scratch` was called."""
        self._scratch = NOT_OPEN
        self.missing: tuple[str, ...] = ()
        """Parts of its confinement that this machine lacks, as sentences."""
        self.loaded: Loaded
        self.runner: Runner
        self.kept_type = ""
        """The task type of its runner's attempts; empty before the first."""
        self.served = 0
        """The number of attempts its runner has run."""

    @classmethod
    async def start(cls, plan: Plan, *, confined: bool) -> "HandlerProcess":
        """Start a process and wait until it has loaded its handlers and has a runner ready.

        Raises:
            ConfinementError: `confined` is impossible here; no handler was loaded.
            ClusterError: CONFIG_INVALID, the handlers can't be loaded; its note has the traceback.
            OSError, TimeoutError: It did not start; its output is in the log.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        marker = secrets.token_hex(16)
        directory = plan.scratch / marker
        directory.mkdir(mode=0o700)
        told = {
            "parent": os.getpid(),
            "confined": confined,
            "hidden": [astuple(place) for place in plan.hidden],
            "scratch": str(directory),
            "writable": plan.writable,
            "visible": plan.visible,
            "memory_bytes_max": plan.memory_bytes_max,
        }
        environment = {k: os.environ[k] for k in PASSED_VARIABLES if k in os.environ}
        environment |= {
            MARKER_VARIABLE: marker,
            MEMORY_VARIABLE: str(plan.memory_bytes_max),
            "HOME": "/nonexistent",
            "TMPDIR": str(directory),
        }
        if "PYTHONPATH" in environment:
            environment["PYTHONPATH"] = _absolute(environment["PYTHONPATH"])
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # Otherwise modules in the current directory would be imported first.
                "-m",
                "ipfs_cluster_node.adapters.worker.handler_process",
                str(theirs.fileno()),
                json.dumps(told),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                # The node's directory may be its home, which would stay readable beneath the mount.
                cwd="/",
                env=environment,
            )
        self = cls(process, ours, directory=directory, confined=confined)
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                await self._wait_until_ready(plan.sources)
            self.fork()
        except BaseException as error:
            await self.kill()
            if isinstance(error, EOFError):
                raise OSError("a handler process did not start") from error
            raise
        return self

    async def _wait_until_ready(self, sources: Sources) -> None:
        # The launcher sends the keeper's id, the keeper that it has loaded; in either order.
        ready = await self._hear_control()
        encoded = json.dumps(sources.encoded()).encode()
        with suppress(ConnectionError):  # It failed, and has said why.
            said = LENGTH.pack(len(encoded)) + encoded
            await asyncio.get_running_loop().sock_sendall(self._control, said)
        while not {"pid", "missing"} <= ready.keys():
            ready |= await self._hear_control()
        self._keeper = ready["pid"]
        self.missing = tuple(ready["missing"])
        self.loaded = Loaded(
            frozenset(ready["types"]),
            frozenset(ready["kept"]),
            tuple(Refused(*each) for each in ready["refused"]),
        )

    async def _hear_control(self) -> dict[str, Any]:
        [size] = LENGTH.unpack(await self._read_control(LENGTH.size))
        if size > READY_BYTES_MAX:
            raise OSError("a handler process reported too much; define fewer task types")
        said: dict[str, Any] = json.loads(await self._read_control(size))
        if "failed" in said:
            raise ConfinementError(said["failed"])
        if "invalid" in said:
            invalid = ClusterError(Reason.CONFIG_INVALID, said["invalid"])
            invalid.add_note(said["traceback"])
            raise invalid
        return said

    def fork(self) -> None:
        """Fork a fresh runner; its first request may be sent at once."""
        ours, theirs = socket.socketpair()
        output = Output()
        try:
            with theirs:
                descriptors = [theirs.fileno(), output.theirs]
                socket.send_fds(self._control, [FORK], descriptors)
        except BaseException:
            ours.close()
            output.close()
            raise
        finally:
            os.close(output.theirs)
        self.runner = Runner(ours, output)
        self.kept_type, self.served = "", 0

    async def end(self) -> "Ended":
        """End the runner and everything that it started; returns when nothing is left.

        Raises:
            EOFError, OSError, TimeoutError: The keeper does not answer; kill this process.
        """
        async with asyncio.timeout(END_SECONDS_MAX):
            self._control.send(END)
            status, clean = ENDED.unpack(await self._read_control(ENDED.size))
        return Ended(status, clean)

    def open_scratch(self) -> int:
        """Make an empty scratch directory; returns its descriptor, or raises OSError."""
        if self._scratch == NOT_OPEN:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            above = os.open(self.directory, flags)
            try:
                os.mkdir(SCRATCH_NAME, SCRATCH_MODE, dir_fd=above)
                self._scratch = os.open(SCRATCH_NAME, flags, dir_fd=above)
            finally:
                os.close(above)
        return self._scratch

    async def clear(self) -> None:
        """Remove leftovers; a kept runner keeps an empty scratch directory. Raises OSError."""
        if self.kept_type and self._scratch_is_as_made():
            return
        self._close_scratch()
        # While others sync the same disk, removing a directory takes milliseconds.
        await asyncio.to_thread(trees.empty, self.directory)

    def _scratch_is_as_made(self) -> bool:
        try:
            ours = os.fstat(self._scratch)
            there = os.stat(self.scratch, follow_symlinks=False)  # noqa: PTH116 (it is fast)
            return (
                (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
                and stat.S_IMODE(ours.st_mode) == SCRATCH_MODE
                and os.listdir(self.directory) == [SCRATCH_NAME]  # noqa: PTH208
                and not os.listdir(self._scratch)  # noqa: PTH208
            )
        except OSError:
            return False

    def _close_scratch(self) -> None:
        if self._scratch != NOT_OPEN:
            os.close(self._scratch)
            self._scratch = NOT_OPEN

    def usage(self, *, processes_max: int, threads_max: int) -> trees.Usage:
        """Usage of the keeper, its runner and everything that this started; as `trees.usage`."""
        return trees.usage(self._keeper, processes_max=processes_max, threads_max=threads_max)

    @property
    def is_alone(self) -> bool:
        """Whether no process started by its runner is left, orphans included.

        Asks the system, not the runner, which its handler controls.
        """
        started = trees.children(self._keeper)
        return len(started) <= 1 and not any(map(trees.children, started))

    @property
    def proportional_bytes(self) -> int:
        """The memory of the same processes; shared pages count once."""
        return trees.proportional_bytes(self._keeper)

    async def kill(self) -> None:
        """Kill the process and everything it started; returns when nothing is left."""
        self._control.close()
        self._close_scratch()
        if hasattr(self, "runner"):
            self.runner.close()
        marker = self.directory.name
        await asyncio.to_thread(
            _kill_tree, self._process.pid, self._keeper, marker, confined=self.confined
        )
        # Read to the end: only then does the event loop close the pipe.
        await asyncio.wait([self._output], timeout=OUTPUT_SECONDS_MAX)
        self._output.cancel()
        await self._process.wait()
        try:
            await asyncio.to_thread(trees.remove, self.directory)
        except OSError as error:
            log.warning("a scratch directory was left behind", extra={"why": str(error)})

    async def _read_control(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        data = b""
        while len(data) < size:
            piece = await loop.sock_recv(self._control, size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    async def _log_output(self) -> None:
        # Output of modules while they load, and why a process does not start.
        assert self._process.stdout is not None
        lines = 0
        while data := await self._process.stdout.read(READ_BYTES):
            for line in data.decode("utf-8", "backslashreplace").splitlines():
                lines += 1
                if lines <= START_LINES_MAX:
                    extra = {"line": line[:START_LINE_CHARS_MAX], "pid": self._process.pid}
                    log.info("handler process's output", extra=extra)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a runner ended."""

    status: int
    clean: bool
    """Whether nothing that it started is left."""

    @property
    def text(self) -> str:
        """A description for messages."""
        if os.WIFSIGNALED(self.status):
            return f"died (signal {os.WTERMSIG(self.status)})"
        return f"ended with status {os.waitstatus_to_exitcode(self.status)}"


class Runner:
    """The node's ends of a runner's socket and output. Nothing read from them is trusted."""

    def __init__(self, channel: socket.socket, output: Output) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._data = bytearray()
        self.output = output
        self.stopped_for = ""

    async def ask(self, identity: Identity, header: dict[str, Any], payload: bytes) -> None:
        """Send the request of an attempt."""
        frame = encode_frame({**asdict(identity), **header}, payload)
        await asyncio.get_running_loop().sock_sendall(self._channel, frame)

    async def hear(self, asked: Identity) -> Said:
        """Read a frame.

        Raises:
            EOFError, OSError: The runner is gone.
            ProtocolError: It is not a valid frame for the attempt.
        """
        try:
            header_bytes, body_bytes = frame_sizes(await self._read(HEAD.size))
        except ValueError as error:
            raise ProtocolError("it sent a frame that is larger than allowed") from error
        header = await self._read(header_bytes)
        return parse(header, await self._read(body_bytes), asked)

    @property
    def waits(self) -> bool:
        """Whether it is ready: alive, and has sent nothing unrequested."""
        try:
            self._channel.recv(1)  # Returns nothing if the runner is gone.
        except BlockingIOError:
            return not self._data
        except OSError:
            pass
        return False

    @property
    def has_unread(self) -> bool:
        """Whether it has sent something unrequested."""
        if self._data:
            return True
        try:
            return bool(self._channel.recv(1))
        except OSError:
            return False

    def stop(self, why: str) -> None:
        """Make `hear` end at once."""
        self.stopped_for = why
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the node's ends."""
        self._channel.close()
        self.output.close()

    async def _read(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        while len(self._data) < size:
            wanted = max(SMALL_READ_BYTES, min(size - len(self._data), READ_BYTES))
            piece = await loop.sock_recv(self._channel, wanted)
            if not piece:
                raise EOFError
            self._data += piece
        data = bytes(self._data[:size])
        del self._data[:size]
        return data


def _absolute(search_path: str) -> str:
    """Make a search path absolute; empty entries are left out."""
    entries = [each for each in search_path.split(os.pathsep) if each]
    return os.pathsep.join(map(os.path.abspath, entries))


def _kill_tree(launcher: int, keeper: int, marker: str, *, confined: bool) -> None:
    """Kill everything that a launcher started. A keeper that is an init ends its namespaces."""
    started = trees.descendants(launcher)
    if not confined and keeper in started:
        trees.kill_descendants(keeper, seconds=KILL_SECONDS_MAX)
    if keeper in started:
        with suppress(OSError):
            os.kill(keeper, signal.SIGKILL)
    left = not trees.kill_descendants(launcher, seconds=KILL_SECONDS_MAX)
    # Not through the process object, which would take the status from its waiter.
    with suppress(OSError):
        os.killpg(launcher, signal.SIGKILL)
    for pid in _marked(marker):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    if left:
        log.error("processes of a handler survived", extra={"launcher": launcher})


def _marked(marker: str) -> Sequence[int]:
    wanted = f"{MARKER_VARIABLE}={marker}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue  # Gone, or another user's.
    return found
