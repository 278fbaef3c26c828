"""What a node's own handlers are loaded from: modules, and files, read once at the start.

Every handler process loads the same text of a file, which is the text that was checked: an edit
takes effect with the node's next start, and then for all types at once.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.machinery import all_suffixes
from importlib.util import decode_source
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.config.files import is_of_another_user, open_regular
from ipfs_cluster_node.config.protection import OTHERS_WRITE
from ipfs_cluster_node.config.settings import names_file
from ipfs_cluster_node.core.errors import ClusterError, Reason

SUFFIX: Final = ".py"
FILE_BYTES_MAX: Final = 1024 * 1024
"""Limit of one file with handlers; data belongs beside it."""
CHECKED_MAX: Final = 10_000
"""How many files and folders of one directory are checked for modules that handlers may import."""
BYTECODE: Final = "__pycache__"
MODULE_SUFFIXES: Final = tuple(all_suffixes())


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file with handlers, as it was read."""

    path: str
    """Absolute."""
    text: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A file, or a task type of several, that is left out while others are loaded."""

    what: str
    """The path of the file, or the task type."""
    why: str
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The sources of a node's own handlers."""

    modules: tuple[str, ...] = ()
    """Named by the operator, to be imported. What is named must load, or no node starts."""
    named: tuple[SourceFile, ...] = ()
    """Named by the operator."""
    found: tuple[SourceFile, ...] = ()
    """Of the home's directory for handlers. What is wrong with one leaves out that one."""
    refused: tuple[Refused, ...] = ()
    """Files of that directory that were not read."""
    own_directory: str = ""
    """The home's directory for handlers, absolute; empty if there is none."""
    unsafe: tuple[Refused, ...] = ()
    """Modules and packages beside the files, by name, that others could change: an import of one
    fails."""

    @property
    def directories(self) -> tuple[str, ...]:
        """Where the files' own imports are looked for last: their directories."""
        parents = (os.path.dirname(each.path) for each in self.named)  # noqa: PTH120
        return tuple(dict.fromkeys((*parents, *[self.own_directory] * bool(self.own_directory))))

    def encoded(self) -> dict[str, Any]:
        """As JSON, for the processes that load them."""
        return asdict(self)

    @classmethod
    def decoded(cls, value: dict[str, Any]) -> "Sources":
        """From JSON."""
        return cls(
            modules=tuple(value["modules"]),
            named=tuple(SourceFile(**each) for each in value["named"]),
            found=tuple(SourceFile(**each) for each in value["found"]),
            refused=tuple(Refused(**each) for each in value["refused"]),
            own_directory=value["own_directory"],
            unsafe=tuple(Refused(**each) for each in value["unsafe"]),
        )


def read_sources(named: Sequence[str], own_directory: Path | None = None) -> Sources:
    """Read the files.

    Args:
        named: Modules, and absolute paths of files.
        own_directory: The home's directory for handlers; need not exist.

    Raises:
        ClusterError: CONFIG_INVALID for a named file that can't be read, or that others may write
            to; for `own_directory` if they may write to it.
    """
    files = [_read(Path(each)) for each in dict.fromkeys(named) if names_file(each)]
    modules = tuple(each for each in dict.fromkeys(named) if not names_file(each))
    if own_directory is None or not os.path.lexists(own_directory):
        return _checked(Sources(modules=modules, named=tuple(files)))
    if own_directory.is_symlink() or not own_directory.is_dir():
        raise _invalid(f"{own_directory} is not a directory; make it one, or remove it")
    _check_writers([own_directory])
    found: list[SourceFile] = []
    refused: list[Refused] = []
    for path in sorted(own_directory.glob(f"*{SUFFIX}")):
        try:
            found.append(_read(path))
        except ClusterError as error:
            refused.append(Refused(str(path), error.message))
    return _checked(
        Sources(
            modules=modules,
            named=tuple(files),
            found=tuple(found),
            refused=tuple(refused),
            own_directory=str(own_directory.resolve()),
        )
    )


def _checked(sources: Sources) -> Sources:
    unsafe: dict[str, Refused] = {}
    for directory in sources.directories:
        for each in _unsafe_in(Path(directory)):
            unsafe.setdefault(each.what, each)
    return replace(sources, unsafe=tuple(unsafe.values()))


def _unsafe_in(directory: Path) -> Iterator[Refused]:
    """Find the modules and packages in a directory that others could change.

    Raises:
        ClusterError: CONFIG_INVALID, if they could change the bytecode of all modules there.
    """
    checked: set[Path] = set()
    _check_beneath(directory / BYTECODE, checked)
    for path in sorted(directory.iterdir()):
        name = path.name.partition(".")[0]
        if name.isidentifier() and (path.is_dir() or path.name.endswith(MODULE_SUFFIXES)):
            try:
                _check_beneath(path, checked)
            except ClusterError as error:
                yield Refused(name, error.message)


def _check_beneath(path: Path, checked: set[Path]) -> None:
    """Refuse a file or folder if others may write to it, or to anything beneath it."""
    try:
        target = path.resolve(strict=True)
        if target in checked:
            return
        if len(checked) >= CHECKED_MAX:
            raise _invalid(
                f"{path} was not checked, since over {CHECKED_MAX} files lie beside the handlers; "
                "move the handlers and their modules to a directory of their own"
            )
        checked.add(target)
        _check_writers([target.parent, target] if path.is_symlink() else [target])
        if target.is_dir():
            for each in sorted(target.iterdir()):
                _check_beneath(each, checked)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _invalid(f"{path} can't be read ({error.strerror}); correct its mode") from error


def _read(path: Path) -> SourceFile:
    stem = path.name.removesuffix(SUFFIX)
    if path.name == stem or not stem.isidentifier():
        raise _invalid(
            f"{path} can't be imported: name it with letters, digits and _, ending with {SUFFIX}"
        )
    path = Path(os.path.abspath(path))  # noqa: PTH100 (a link keeps its name)
    try:
        descriptor = open_regular(path)
        with os.fdopen(descriptor, "rb") as file:
            # What is read is what was checked, even if the name is another file by now.
            _check_writers([path.parent, path.resolve().parent], {path: os.fstat(descriptor)})
            source = file.read(FILE_BYTES_MAX + 1)
        if len(source) > FILE_BYTES_MAX:
            raise _invalid(f"{path} has over {FILE_BYTES_MAX} bytes; keep data in other files")
        return SourceFile(str(path), decode_source(source))
    except OSError as error:
        raise _invalid(f"{path} can't be read ({error.strerror}); correct its name") from error
    except (SyntaxError, ValueError) as error:
        raise _invalid(f"{path} is not Python source ({error}); save it as UTF-8") from error


def _check_writers(
    directories: Sequence[Path], files: dict[Path, os.stat_result] | None = None
) -> None:
    """Refuse code that others could replace; as for keys, a directory counts like its files."""
    found = {**{path: path.stat() for path in directories}, **(files or {})}
    for path, status in found.items():
        if is_of_another_user(status):
            raise _invalid(
                f"{path} belongs to the user with id {status.st_uid}, who could change the "
                f"handlers, and this runs as {os.geteuid()}: copy them to a directory of your own"
            )
    writable = [str(path) for path, status in found.items() if status.st_mode & OTHERS_WRITE]
    shared = [path for path in writable if os.stat(path).st_mode & stat.S_ISVTX]  # noqa: PTH116
    if shared:
        raise _invalid(
            f"others may write to {shared[0]}, and so change the handlers: move them to a "
            "directory of your own"
        )
    if writable:
        names = " ".join(f"'{path}'" for path in writable)
        raise _invalid(f"others may change the handlers; run: chmod go-w {names}")


def _invalid(message: str) -> ClusterError:
    return ClusterError(Reason.CONFIG_INVALID, message)
