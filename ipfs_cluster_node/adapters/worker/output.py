"""The output of an attempt: its end is kept, its start goes to the node's log."""

import asyncio
import logging
import os
from contextlib import suppress
from typing import Final

from ipfs_cluster_node.core.model import OUTPUT_TAIL_BYTES_MAX
from ipfs_cluster_node.core.printable import end_of_text

log = logging.getLogger(__name__)

READ_BYTES: Final = 256 * 1024
LOGGED_LINES_MAX: Final = 20
"""Lines logged per attempt; the rest is only counted."""
LOGGED_LINE_BYTES_MAX: Final = 4096


class Output:
    """Reads a runner's pipe as fast as it is written, so that handlers never wait for a log."""

    def __init__(self) -> None:
        """Open a pipe; `theirs` is for the runner, and closed here once passed on."""
        self._ours, self.theirs = os.pipe()
        os.set_blocking(self._ours, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._ours, self._read)
        self.begin("", 0)

    def begin(self, task_id: str, attempt: int) -> None:
        """Discard earlier output: from now on it belongs to this attempt."""
        self._who = {"task_id": task_id, "attempt": attempt}
        self._tail = bytearray()
        self._line = bytearray()
        self._byte_count = 0
        self._logged_count = 0

    def finish(self) -> str:
        """Read the remaining output, log how much was left out, and return the end of it."""
        while self._read():
            pass
        if self._line:
            self._log_line(bytes(self._line))
            self._line.clear()
        if self._logged_count > LOGGED_LINES_MAX:
            log.info(
                "handler output left out",
                extra={
                    **self._who,
                    "lines": self._logged_count - LOGGED_LINES_MAX,
                    "bytes": self._byte_count,
                },
            )
        text = bytes(self._tail).decode("utf-8", "replace")
        return end_of_text(text, OUTPUT_TAIL_BYTES_MAX)

    def close(self) -> None:
        """Close the node's end."""
        self._loop.remove_reader(self._ours)
        with suppress(OSError):
            os.close(self._ours)

    def _read(self) -> bool:
        try:
            data = os.read(self._ours, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._ours)
            return False
        self._byte_count += len(data)
        self._tail += data
        del self._tail[:-OUTPUT_TAIL_BYTES_MAX]
        self._take_lines(data)
        return True

    def _take_lines(self, data: bytes) -> None:
        if self._logged_count >= LOGGED_LINES_MAX:
            self._logged_count += data.count(b"\n")
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._log_line(bytes(self._line) + line)
            self._line.clear()
        self._line += rest[:LOGGED_LINE_BYTES_MAX]
        del self._line[LOGGED_LINE_BYTES_MAX:]

    def _log_line(self, line: bytes) -> None:
        self._logged_count += 1
        if self._logged_count <= LOGGED_LINES_MAX:
            text = line[:LOGGED_LINE_BYTES_MAX].decode("utf-8", "backslashreplace").rstrip()
            log.info("handler output", extra={**self._who, "line": text})
