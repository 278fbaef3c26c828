"""Inputs of a task as a user gives them: a local file, content by CID, or a table in memory."""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ipfs_cluster_node.client.values import needs, shown
from ipfs_cluster_node.codec.tasks import NAME_RULE
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NAME_PATTERN
from ipfs_cluster_node.core.model import INPUT_FORMATS, TASK_INPUTS_MAX
from ipfs_cluster_node.core.multiformats import parse_cid
from ipfs_cluster_node.core.names import CONTENT

if TYPE_CHECKING:
    from ipfs_cluster_node.client.content import ContentCalls

Source = Path | str | Any
"""A path, a CID, or what exports an Arrow stream: a table of pyarrow, Polars or pandas."""
Progress = Callable[[int], None]
NamedCid = tuple[str, str, str]
"""Name, CID and format, as `submit_task` takes it."""


@dataclass(frozen=True, slots=True)
class GivenInput:
    """One input: exactly one of `path`, `cid` and `table` is set."""

    name: str
    path: Path | None = None
    cid: str = ""
    table: Any = None
    format: str = ""


def given_input(name: str, source: Source) -> GivenInput:
    """Check an input; nothing is read yet.

    Args:
        name: Its name in the task.
        source: See `Source`; text is a CID if it can be one, or the beginning of one and no file
            is so named, else a path. After a CID, or the path
            of an existing file, `:csv`, `:parquet` or `:arrow` may name the format.

    Raises:
        ClusterError: INVALID_ARGUMENT for a wrong name, or a file that is not there.
    """
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise _refused(f"{name!r:.80} can't be an input's name; use {NAME_RULE}")
    if isinstance(source, str):
        if _is_cid(source):
            return GivenInput(name, cid=source)
        start, _, form = source.rpartition(":")
        if form and form in INPUT_FORMATS and not Path(source).exists():
            if _is_cid(start):
                return GivenInput(name, cid=start, format=form)
            return GivenInput(name, path=_file(name, Path(start)), format=form)
        return GivenInput(name, path=_file(name, Path(source)))
    if isinstance(source, Path):
        return GivenInput(name, path=_file(name, source))
    if hasattr(source, "__arrow_c_stream__"):
        needs("pyarrow", by="a table as an input")
        return GivenInput(name, table=source, format="arrow")
    raise _refused(
        f"input {name} is {shown(source)}; give the path of a file, a CID, or a table of pyarrow, "
        "Polars or pandas"
    )


def given_inputs(pairs: Iterable[tuple[str, Source]]) -> list[GivenInput]:
    """Check all inputs of a task.

    Raises:
        ClusterError: As `given_input`; also if a name is given twice, or there are too many.
    """
    found: dict[str, GivenInput] = {}
    for name, source in pairs:
        given = given_input(name, source)
        if name in found:
            raise _refused(f"input {name} is given twice; give each name once")
        found[name] = given
    if len(found) > TASK_INPUTS_MAX:
        raise _refused(f"{len(found)} inputs are given, at most {TASK_INPUTS_MAX} are allowed")
    return list(found.values())


async def add_input(
    client: "ContentCalls",
    given: GivenInput,
    *,
    namespace: str,
    on_progress: Progress = lambda _done: None,
) -> NamedCid:
    """Add an input to the cluster in its task's namespace, unless it is named by its CID.

    Raises:
        ClusterError: As `add_content`.
        OSError: The file can't be read.
    """
    if given.cid:
        return given.name, given.cid, given.format
    if given.path is not None:
        added = await client.add_content(given.path, namespace=namespace, on_progress=on_progress)
    else:
        import asyncio

        with tempfile.TemporaryFile() as file:
            await asyncio.to_thread(_write_stream, given.table, file)
            added = await client.add_file(file, name=f"{given.name}.arrows", namespace=namespace)
    return given.name, added.cid, given.format


def _write_stream(table: Any, file: BinaryIO) -> None:
    """Write a table as an Arrow stream, batch by batch."""
    import pyarrow as pa

    reader = pa.RecordBatchReader.from_stream(table)
    with pa.ipc.new_stream(file, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
    file.flush()


def _is_cid(text: str) -> bool:
    """Whether this is a CID, or the beginning of one with its constant start."""
    if CONTENT.prefixes(text) == (text,):
        return not Path(text).exists()
    try:
        parse_cid(text)
    except ValueError:
        return False
    return True


def _file(name: str, path: Path) -> Path:
    if path.is_file():
        return path
    why = "is no regular file" if path.exists() else "is neither a file here nor a CID"
    raise _refused(f"input {name}: {path} {why}; check the path")


def _refused(why: str) -> ClusterError:
    return ClusterError(Reason.INVALID_ARGUMENT, why)
