"""`content get` into pipes: every byte comes, nothing else does, and Ctrl-C ends it at once."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

LENGTH = 2**18
"""Four times what a pipe holds."""
PIPE_BYTES = 2**16
SCRIPT = f"""
import asyncio, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # Who runs the tests may ignore it.
from ipfs_cluster_node.cli import content_commands
from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.core.multiformats import RAW, cid_of

data = bytes({LENGTH})

class Client:
    @property
    def lookups(self):
        return self

    async def cid(self, text):
        return text

    async def get_content(self, cid):
        yield data

content_commands.run_client = lambda _profile, operation: asyncio.run(operation(Client()))
main(["content", "get", str(cid_of(RAW, data)), "-o", sys.argv[1]])
"""


def waiting_in(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/dev/fd/1"])
def test_standard_output_gets_the_bytes_and_nothing_else_under_each_name(
    tmp_path: Path, output: str
) -> None:
    command = [sys.executable, "-c", SCRIPT, output]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert done.stdout == bytes(LENGTH)
    with (tmp_path / "file").open("wb") as file:
        subprocess.run(command, stdout=file, timeout=60, check=True)
    assert (tmp_path / "file").read_bytes() == bytes(LENGTH)


@pytest.mark.parametrize("output", ["fifo", "-", "/dev/stdout"])
def test_ctrl_c_ends_it_though_the_reader_of_its_pipe_stands_still(
    tmp_path: Path, output: str
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(fifo, os.O_WRONLY)
    try:
        with subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(fifo) if output == "fifo" else output],
            stdout=subprocess.DEVNULL if output == "fifo" else writer,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                deadline = time.monotonic() + 60
                while waiting_in(reader) < PIPE_BYTES and time.monotonic() < deadline:
                    time.sleep(0.02)
                process.send_signal(signal.SIGINT)
                said = process.communicate(timeout=10)[1]
            finally:
                process.kill()
        assert process.returncode == 130
        assert "Traceback" not in said
    finally:
        os.close(writer)
        os.close(reader)
