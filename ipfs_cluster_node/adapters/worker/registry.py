"""Finds handlers."""

import importlib
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from typing import Any

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.tasks import ENTRY_POINT_GROUP, TASK_TYPE_ATTRIBUTE, Handler


def load_handlers(modules: Sequence[str]) -> dict[str, Handler]:
    """Load every handler: those of entry points, then those of `modules`, which go before them.

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
        f"task handlers in {name} can't be loaded ({type(error).__name__}: {error}); mend the "
        "module, or take it out of tasks.handler_modules",
    )
