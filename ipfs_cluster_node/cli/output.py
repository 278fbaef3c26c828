"""Output of the command line: JSON or tables, errors, exit codes."""

import os
import shlex
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from ipfs_cluster_node.config.output_file import NO_ROOM
from ipfs_cluster_node.config.units import parse_duration
from ipfs_cluster_node.core.errors import ClusterError, Exit, Reason
from ipfs_cluster_node.core.printable import json_text, printable

STALE_KEY: Final = "ipfs_cluster_node.stale"
"""Key in click's `meta`: whether reads may be stale."""

UCAN_KEY: Final = "ipfs_cluster_node.ucan"
"""Key in click's `meta`: delegations for the call, a container or a file with one."""

WAITING_KEY: Final = "ipfs_cluster_node.waiting"
"""Key in click's `meta`: when it was last said why the command waits, by the event loop's clock."""

FAILURE: Final = "failure"
"""The column that is printed beneath a table that is too wide."""
BORDER_CELLS: Final = 3
"""Of each column of a table: its right line, and a space on both sides."""

NOTHING: Final = "\N{EN DASH}"
"""In a table, where there is no value."""

PATH_CHARS_MAX: Final = 256
"""Longer text is never taken as a file name."""

capturing: ContextVar[Callable[[], Any] | None] = ContextVar("capturing", default=None)
"""Set while commands run only to capture their call, see `capture.py`: opens the client that looks
up names for them."""

VERBOSE_KEY: Final = "ipfs_cluster_node.verbose"
"""Key in click's `meta`: whether delegations are named too."""

Function = TypeVar("Function", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


verbose_option = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Also show the delegations that allowed or denied the call.",
    expose_value=False,
    callback=lambda ctx, _param, value: ctx.meta.__setitem__(VERBOSE_KEY, value),
)


class Parsed(click.ParamType[Any]):
    """An option's value that is parsed from text; what is wrong with it is wrong usage."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        """Name the form; `parse` raises ValueError or ClusterError."""
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse text; click also asks for values that are parsed already."""
        try:
            return self._parse(value) if isinstance(value, str) else value
        except (ValueError, ClusterError) as error:
            self.fail(str(error), param, ctx)


def one_of(values: Iterable[str]) -> click.Choice[str]:
    """An option's value that is one of these, such as those of an enumeration."""
    return click.Choice([*map(str, values)])


DURATION: Final = Parsed("duration", parse_duration)
"""`30s`, `10m`, `2h`."""


WAIT_MIN: Final = timedelta(seconds=1)
"""Less is no time to ask a master in, and the error would be about the masters."""


def _parse_wait(text: str) -> timedelta:
    wait = parse_duration(text)
    if wait < WAIT_MIN:
        raise ValueError(f"{text} is too short to ask a master; the minimum is 1s")
    return wait


WAIT: Final = Parsed("duration", _parse_wait)
"""How long to wait for tasks."""


def confirm(question: str) -> None:
    """Ask on standard error, and go on at a yes; a command that prints JSON never asks."""
    if click.get_current_context().params.get("as_json"):
        raise click.UsageError(f"{printable(question)} Add --yes for that")
    click.confirm(printable(question), abort=True, err=True)


def fail(error: ClusterError, status: Exit | None = None) -> NoReturn:
    """Print an error and exit with its code, or with another one."""
    if click.get_current_context().params.get("as_json"):
        said: dict[str, Any] = {"reason": error.reason.value, "message": str(error)}
        if error.metadata:
            said["metadata"] = dict(error.metadata)
        print_json({"error": said}, err=True)
    else:
        say(*notes_of(error), err=True)
        say(f"error: {error} [{error.reason}]", err=True)
        if verbose():
            say(*(f"  {name}: {fact}" for name, fact in error.metadata.items()), err=True)
    sys.exit(error.reason.exit_status if status is None else status)


def notes_of(error: BaseException) -> list[str]:
    """The lines of an error's notes, such as the traceback of handlers that can't be loaded."""
    return [line for note in getattr(error, "__notes__", ()) for line in note.splitlines()]


def reporting(function: Function) -> Function:
    """Print a command's errors as sentences, never as tracebacks."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ClusterError as error:
            fail(error)
        except BrokenPipeError:
            # The reader closed the pipe: nothing to report.
            drop_output()
            sys.exit(Exit.FAILED)
        except TimeoutError:
            fail(ClusterError(Reason.DEADLINE_EXCEEDED, "it took too long; see the nodes' logs"))
        except OSError as error:
            if error.errno in NO_ROOM:
                what = f"no space to write the output ({error.strerror}); free some"
                fail(ClusterError(Reason.STORAGE_FULL, what))
            what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            fail(
                ClusterError(Reason.INVALID_ARGUMENT, f"{what}; check the path and its permissions")
            )

    return run  # type: ignore[return-value]


def local_command(function: Function) -> Function:
    """A command with --json that reports its errors; needs no profile."""
    return json_option(reporting(function))


def client_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command of the client: its first parameter is the profile."""
    return json_option(verbose_option(click.pass_obj(reporting(function))))


def verbose() -> bool:
    """Whether delegations are named too."""
    return bool(click.get_current_context().meta.get(VERBOSE_KEY))


def drop_output() -> None:
    """Discard unprinted output: the reader is gone, and exit would fail to flush it."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_client(profile: str | None, operation: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """Run an operation of the client."""
    import asyncio  # `--help` needs neither.

    # What gRPC's core would print of a failed handshake is in the command's own error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    opens_for_lookups = capturing.get()
    opened = opener(profile)

    async def run() -> Any:
        if opens_for_lookups is not None:
            from ipfs_cluster_node.cli.capture import capturing_client

            return await operation(capturing_client(opens_for_lookups))
        async with opened() as client:
            return await operation(client)

    return asyncio.run(run())


def opener(profile: str | None) -> Callable[[], Any]:
    """What opens the client of the current command, with its `--stale` and `--ucan`."""
    from ipfs_cluster_node.client.client import Client
    from ipfs_cluster_node.client.patience import Patience

    meta = click.get_current_context().meta
    stale, ucan = bool(meta.get(STALE_KEY)), text_of(meta.get(UCAN_KEY, ""))

    def opened() -> Any:
        patience = Patience(say=hint_of_waiting)
        return Client.from_profile(profile, stale=stale, ucan=ucan, patience=patience)

    return opened


def text_of(given: str) -> str:
    """The text itself, or that of the file so named, or of standard input for `-`."""
    if given == "-":
        return sys.stdin.read().strip()
    path = Path(given)
    if 0 < len(given) < PATH_CHARS_MAX and path.is_file():
        return path.read_text("utf-8").strip()
    return given.strip()


def with_profile(name: str) -> str:
    """The start of a command line that uses a profile."""
    from ipfs_cluster_node.config.profiles import chosen_profile

    used = name == chosen_profile(None)
    return command_line(*([] if used else ["--profile", name]))


def command_line(*arguments: object) -> str:
    """A command to copy into a shell: names and paths with spaces or quotes stay whole."""
    return shlex.join(map(str, ("ipfs-cluster-node", *arguments)))


def say(*lines: str, err: bool = False) -> None:
    """Print lines; control characters in them are escaped, line ends too."""
    for line in lines:
        click.echo(printable(line), err=err)


def hint(*lines: str) -> None:
    """Print lines on standard error, unless it is to have JSON alone."""
    context = click.get_current_context(silent=True)
    if context is None or not context.params.get("as_json"):
        say(*lines, err=True)


def counted(number: int, what: str) -> str:
    """A number of things: `1 file`, `2 files`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def hint_of_waiting(line: str) -> None:
    """Print why a command waits: one line in `SAY_AGAIN_SECONDS`, whichever of its calls waits."""
    import asyncio

    from ipfs_cluster_node.client.patience import SAY_AGAIN_SECONDS

    context = click.get_current_context(silent=True)
    said = {} if context is None else context.meta
    now = asyncio.get_running_loop().time()
    if now - said.get(WAITING_KEY, -SAY_AGAIN_SECONDS) >= SAY_AGAIN_SECONDS:
        said[WAITING_KEY] = now
        hint(line)


def print_result(data: bytes, *, as_text: bool = False) -> None:
    """Write a result unchanged; on a terminal, or `as_text`, in lines that are safe to show."""
    if not (as_text or sys.stdout.isatty()):
        sys.stdout.buffer.write(data)
        return
    text = printable(data.decode("utf-8", "backslashreplace"), keep="\n\t")
    click.echo(text, nl=bool(text) and not text.endswith("\n"))


def print_json(document: Any, *, err: bool = False) -> None:
    """Print one JSON document on one line, in ASCII without control characters."""
    click.echo(json_text(document), err=err)


def print_done(document: Any, said: str | Sequence[str], as_json: bool) -> None:  # noqa: FBT001
    """Print what was done, as JSON or as lines."""
    if as_json:
        print_json(document)
    else:
        say(*([said] if isinstance(said, str) else said))


def print_view(view: Any, said: Sequence[str], as_json: bool) -> None:  # noqa: FBT001
    """Print what the client returned, as JSON or as lines."""
    print_done(json_document(view), said, as_json)


def print_views(
    views: Sequence[Any],
    as_json: bool,  # noqa: FBT001
    title: str,
    columns: Sequence[str],
    row: Callable[[Any], Sequence[Any]],
    dropped: Sequence[str] = (),
) -> None:
    """Print what the client listed, as JSON or as a table with a row for each."""
    if as_json:
        print_json([json_document(each) for each in views])
    else:
        print_table(title, columns, map(row, views), dropped)


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    dropped: Sequence[str] = (),
) -> None:
    """Print rows as a table, its title above it; tab-separated if the output is no terminal.

    Of a terminal that is too narrow, the columns `dropped` are left out, in this order, as far as
    that is needed; what they say of failures follows the table, line by line.
    """
    if not sys.stdout.isatty():
        for row in chain((columns,), rows):
            click.echo("\t".join(map(cell_text, row)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def text(given: Any) -> Text:
        # As Text: the cells must not be parsed as markup.
        return Text(cell_text(given))

    say(title)
    console = Console()
    texts = [[*map(text, row)] for row in rows]
    heads = [*map(text, columns)]
    wide = [max(each.cell_len for each in column) for column in zip(heads, *texts, strict=True)]
    left_out: set[int] = set()
    for name in dropped:
        if (
            1 + sum(w + BORDER_CELLS for at, w in enumerate(wide) if at not in left_out)
            > console.width
        ):
            left_out.add(columns.index(name))
    shown = [at for at in range(len(columns)) if at not in left_out]
    table = Table()
    for at in shown:
        table.add_column(heads[at], overflow="fold")
    for row in texts:
        table.add_row(*(row[at] for at in shown))
    console.print(table)
    failures = [at for at in left_out if columns[at] == FAILURE]
    say(*(f"{row[0]} failed: {row[at]}" for at in failures for row in texts if row[at]))
    hidden = [columns[at] for at in sorted(left_out) if at not in failures]
    if hidden:
        say(f"left out: {', '.join(hidden)}; --wide shows all", err=True)


def cell_text(value: Any) -> str:
    """A value in a table: NULL for none, and JSON for a list or an object."""
    match value:
        case None:
            return "NULL"
        case str():
            return printable(value)
        case bool() | list() | dict():
            return json_text(value)
        case _:
            return printable(str(value))


@contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(printable(title), total=total)
        yield lambda done: progress.update(bar, completed=done)


@contextmanager
def state_line(title: str) -> Iterator[Callable[[str], None]]:
    """Show a line with a state and the time on a terminal, gone with the block."""
    if not sys.stderr.isatty():
        yield lambda _state: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        line = progress.add_task(printable(title), total=None)
        yield lambda state: progress.update(line, description=printable(f"{title} {state}"))


def json_document(view: Any) -> Any:
    """What the client returned, as a JSON document."""
    from ipfs_cluster_node.codec import views  # `--help` needs none.

    return views.json_document(view)


def time_text(at_ms: int) -> str:
    """A time for a table, to the second: UTC."""
    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%F %T}"


def exact_time_text(at_ms: int) -> str:
    """A time as the API's JSON has it: RFC 3339."""
    seconds, milliseconds = divmod(at_ms, 1000)
    part = f".{milliseconds:03}" if milliseconds else ""
    return f"{datetime.fromtimestamp(seconds, UTC):%FT%T}{part}Z"
