"""Files that a command writes for its user."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from ipfs_cluster_node.cli.output import capturing, print_result
from ipfs_cluster_node.config.output_file import is_standard_output, output_file
from ipfs_cluster_node.core.printable import printable

NAME_BYTES_MAX: Final = 255
"""Of a file's name, on common file systems."""

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


def confirms_overwriting(path: Path) -> bool:
    """Ask on a terminal whether to overwrite an ordinary file; False elsewhere, or without one."""
    asks = not capturing.get() and sys.stdin.isatty() and sys.stderr.isatty()
    if not asks or is_standard_output(path) or not path.is_file():
        return False
    return click.confirm(f"{printable(str(path))} exists. Overwrite it?", err=True)


def harmless_name(name: str) -> str:
    """The name, if a file of this directory may be called so; else empty: others chose it."""
    ordinary = name == Path(name).name and name.isprintable() and not name.startswith((".", "-"))
    return name if ordinary and len(name.encode()) <= NAME_BYTES_MAX else ""


@contextmanager
def standard_input() -> Iterator[BinaryIO]:
    """All of standard input in a file, to be read again where a transfer breaks off."""
    with tempfile.TemporaryFile() as file:
        if not capturing.get():
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
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
