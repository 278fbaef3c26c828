"""Finds handlers."""

import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Final

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.tasks import ENTRY_POINT_GROUP, TASK_TYPE_ATTRIBUTE, Handler

KEPT_MODULES: Final = (
    "ipfs_cluster_node.adapters.worker.builtin.echo",
    "ipfs_cluster_node.adapters.worker.builtin.data_processing",
)
"""Modules whose handlers may run several attempts in one process. They come with the node, so they
are trusted. No other handler can request it."""


def kept_types(handlers: Mapping[str, Handler]) -> frozenset[str]:
    """List the task types whose handler really comes from one of `KEPT_MODULES`."""
    loaded = (sys.modules[name] for name in KEPT_MODULES if name in sys.modules)
    ours = [one for module in loaded for one in module.handlers]
    return frozenset(name for name, one in handlers.items() if any(one is each for each in ours))


def load_handlers(modules: Sequence[str]) -> dict[str, Handler]:
    """Load every handler: those of entry points, then those of `modules`, which override them.

    Raises:
        ClusterError: CONFIG_INVALID, naming the module that can't be imported.
    """
    handlers: dict[str, Handler] = {}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name):
        try:
            loaded = entry.load()
        except Exception as error:
            raise _broken(entry.value, error) from error
        handlers.update(_marked(loaded if isinstance(loaded, Iterable) else (loaded,)))
    for name in modules:
        try:
            module = importlib.import_module(name)
        except Exception as error:
            raise _broken(name, error) from error
        handlers.update(_marked(vars(module).values()))
    return handlers


def _marked(values: Iterable[Any]) -> dict[str, Handler]:
    return {
        getattr(value, TASK_TYPE_ATTRIBUTE): value
        for value in values
        if callable(value) and hasattr(value, TASK_TYPE_ATTRIBUTE)
    }


def _broken(name: str, error: Exception) -> ClusterError:
    return ClusterError(
        Reason.CONFIG_INVALID,
        f"task handlers in {name} can't be loaded ({type(error).__name__}: {error}); correct "
        "the module, or remove it from tasks.handler_modules",
    )
