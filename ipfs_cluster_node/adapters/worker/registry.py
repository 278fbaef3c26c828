"""Finds handlers. Only handler processes load them: a node runs none of their code itself."""

import importlib
import importlib.util
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.adapters.worker.sources import Refused, SourceFile, Sources
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import TASK_TYPES_MAX
from ipfs_cluster_node.tasks import ENTRY_POINT_GROUP, TASK_TYPE_ATTRIBUTE, Handler

KEPT_MODULES: Final = (
    "ipfs_cluster_node.adapters.worker.builtin.echo",
    "ipfs_cluster_node.adapters.worker.builtin.data_processing",
)
"""Modules whose handlers may run several attempts in one process. They come with the node, so they
are trusted. No other handler can request it."""
FOUND_SECONDS_MAX: Final = 10.0
"""How long a file of the home's directory for handlers may take to load; a named one may take as
long as a handler process may take to start."""


def kept_types(handlers: Mapping[str, Handler]) -> frozenset[str]:
    """List the task types whose handler really comes from one of `KEPT_MODULES`."""
    loaded = (sys.modules[name] for name in KEPT_MODULES if name in sys.modules)
    ours = [one for module in loaded for one in module.handlers]
    return frozenset(name for name, one in handlers.items() if any(one is each for each in ours))


def load_handlers(sources: Sources) -> tuple[dict[str, Handler], list[Refused]]:
    """Load every handler: installed ones, then the node's own, which override them.

    Returns:
        The handlers by task type; and what is left out, because it can't be loaded, or because
        several files handle the type.

    Raises:
        ClusterError: CONFIG_INVALID, for what is installed or named; its note has the traceback.
    """
    installed: dict[str, Handler] = {}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name):
        try:
            loaded = entry.load()
        except Exception as error:
            raise _broken(entry.value, "uninstall it", error) from error
        values = loaded if isinstance(loaded, Iterable) else (loaded,)
        installed |= dict(_marked(values))
    own = _Own(sources)
    for name in sources.modules:
        own.load_named(name, name)
    for file in sources.named:
        own.load_named(_module_name(file), file.path)
    for file in sources.found:
        own.load_found(file)
    handlers = installed | own.handlers
    if len(handlers) > TASK_TYPES_MAX:
        raise ClusterError(
            Reason.CONFIG_INVALID,
            f"there are handlers for {len(handlers)} task types, and a node has at most "
            f"{TASK_TYPES_MAX}; give others to other workers, or choose by the payload",
        )
    return handlers, own.refused


class _Own:
    """The node's own handlers, as far as they are loaded."""

    def __init__(self, sources: Sources) -> None:
        self._handlers: dict[str, tuple[Handler, str]] = {}
        self._ambiguous: set[str] = set()
        self._named: set[str] = set()
        self.refused: list[Refused] = []
        files: dict[str, SourceFile] = {}
        self._taken: dict[str, str] = {}
        for file in (*sources.named, *sources.found):
            name = _module_name(file)
            holder = files[name].path if name in files else _module_at(name)
            if holder is not None and holder != file.path:
                self._taken[file.path] = holder
            else:
                files[name] = file
        # Before other finders, which would read the files again; no name of theirs is taken.
        sys.meta_path.insert(0, _FileFinder(files, sources))
        sys.path += [each for each in sources.directories if each not in sys.path]

    @property
    def handlers(self) -> dict[str, Handler]:
        return {kind: handler for kind, (handler, _) in self._handlers.items()}

    def load_named(self, name: str, where: str) -> None:
        try:
            self._check_name(where)
            found = _marked(vars(importlib.import_module(name)).values())
        except (Exception, SystemExit) as error:
            raise _broken(where, "leave it out of --handlers and tasks.handlers", error) from error
        if same := self._add(found, where):
            raise ClusterError(Reason.CONFIG_INVALID, same[0].why)
        self._named |= self._handlers.keys()

    def load_found(self, file: SourceFile) -> None:
        try:
            self._check_name(file.path)
            with _within(FOUND_SECONDS_MAX):
                found = _marked(vars(importlib.import_module(_module_name(file))).values())
        except (Exception, SystemExit) as error:
            self.refused.append(Refused(file.path, _words(error), _traceback(error)))
            return
        for each in self._add(found, file.path):
            self.refused.append(each)
            if each.what not in self._named:
                self._ambiguous.add(each.what)
                self._handlers.pop(each.what, None)

    def _add(self, found: Iterable[tuple[str, Handler]], where: str) -> list[Refused]:
        same: list[Refused] = []
        for kind, handler in found:
            other, holder = self._handlers.get(kind, (handler, where))
            if kind in self._ambiguous:
                why = f"{kind!r} is also in {where}; keep one of them"
                same.append(Refused(kind, why))
            elif other is handler:
                self._handlers[kind] = handler, holder
            else:
                both = f"{holder} ({_function(other)}) and {where} ({_function(handler)})"
                same.append(Refused(kind, f"{both} both handle {kind!r}; keep one of them"))
        return same

    def _check_name(self, where: str) -> None:
        if (holder := self._taken.get(where)) is not None:
            raise ImportError(f"its name is also that of {holder}; rename the file")


class _FileFinder(MetaPathFinder, ExecutionLoader):
    """Imports files with handlers from what was read at the node's start.

    Refuses what others could change of the modules that lie beside them.
    """

    def __init__(self, files: Mapping[str, SourceFile], sources: Sources) -> None:
        self._files = files
        self._unsafe = {each.what: each.why for each in sources.unsafe}
        self._directories = sources.directories

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        if fullname not in self._files:
            if fullname in self._unsafe and not self._is_installed(fullname):
                raise ImportError(self._unsafe[fullname])
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def _is_installed(self, name: str) -> bool:
        others = [each for each in sys.path if each not in self._directories]
        return name in sys.stdlib_module_names or PathFinder.find_spec(name, others) is not None

    def get_filename(self, fullname: str) -> str:
        return self._files[fullname].path

    def get_source(self, fullname: str) -> str:
        return self._files[fullname].text


def _module_name(file: SourceFile) -> str:
    return Path(file.path).stem


def _module_at(name: str) -> str | None:
    """Where a module of that name comes from; None if there is none."""
    try:
        found = importlib.util.find_spec(name)
    except ValueError:
        return f"the module {name}"
    return None if found is None else found.origin or f"the module {name}"


def _marked(values: Iterable[Any]) -> Iterator[tuple[str, Handler]]:
    for value in values:
        kind = getattr(value, TASK_TYPE_ATTRIBUTE, None)
        if callable(value) and isinstance(kind, str):
            yield kind, value


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError from what takes longer in Python code."""

    def late(_number: int, _frame: Any) -> None:
        raise TimeoutError(f"it took longer than {seconds:g} s; load less while it is imported")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _function(handler: Handler) -> str:
    return str(getattr(handler, "__qualname__", type(handler).__qualname__))


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _traceback(error: BaseException) -> str:
    """Without the frames of this file and of the import system, which say nothing of the cause."""
    frames = error.__traceback__
    while frames is not None and (
        frames.tb_frame.f_code.co_filename in (__file__, importlib.__file__)
        or frames.tb_frame.f_code.co_filename.startswith("<frozen importlib")
    ):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def _broken(name: str, else_: str, error: BaseException) -> ClusterError:
    broken = ClusterError(
        Reason.CONFIG_INVALID,
        f"task handlers in {name} can't be loaded ({_words(error)}); correct it, or {else_}",
    )
    broken.add_note(_traceback(error).rstrip())
    return broken
