"""Files that a command writes for its user."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import click

from ipfs_cluster_node.cli.output import capturing, print_result
from ipfs_cluster_node.config.output_file import is_standard_output, output_file

force_option = click.option("--force", is_flag=True, help="Overwrite an existing file.")


@contextmanager
def user_file(
    path: Path, *, force: bool, private: bool = False, whole: bool = False
) -> Iterator[BinaryIO]:
    """Open it as `output_file` does, before any call to the cluster."""
    if capturing.get():
        yield BytesIO()  # The command is only being explained.
        return
    if is_standard_output(path) and sys.stdout.isatty():
        yield _Shown()
        return
    with output_file(path, force=force, private=private, whole=whole) as file:
        yield file


async def write_aside(file: BinaryIO, data: bytes) -> None:
    """Write in a thread that exit does not wait for: a pipe's reader may be stuck."""
    import asyncio  # `--help` needs neither.
    from concurrent.futures import Future
    from threading import Thread

    written: Future[int] = Future()

    def write() -> None:
        try:
            written.set_result(file.write(data))
        except Exception as error:
            written.set_exception(error)

    written.set_running_or_notify_cancel()
    Thread(target=write, daemon=True).start()
    await asyncio.wrap_future(written)


class _Shown(BytesIO):
    """Prints what is written to a terminal, with control sequences escaped."""

    def write(self, data: Any) -> int:
        print_result(bytes(data))
        return len(data)
