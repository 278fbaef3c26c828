"""A function of the user's as a handler of the kit's own worker: its file is copied there."""

import ast
import inspect
import keyword
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.config.files import make_private_directory, write_private
from ipfs_cluster_node.core.ids import NAME_PATTERN
from ipfs_cluster_node.kit.results import ErrorType, KitError

_TAIL: Final = """

# Added by ipfs_cluster_node.kit: the function above takes the payload, and returns the result.
from ipfs_cluster_node.tasks import TaskContext as _TaskContext
from ipfs_cluster_node.tasks import task_handler as _task_handler


@_task_handler({task_type!r})
def _handle(task: _TaskContext) -> object:
    return {name}(task.json())
"""


def write_handler(folder: Path, task_type: str, function: Callable[..., Any]) -> Path:
    """Write the handler's file; returns where it is.

    Raises:
        KitError: The function can't run in another process by its file alone.
    """
    if not NAME_PATTERN.fullmatch(task_type or ""):
        raise KitError(ErrorType.VALIDATION, f"{task_type!r:.80} is no type of a task")
    source = _source_of(function)
    make_private_directory(folder)
    safe = "".join(c if c.isalnum() else "_" for c in task_type)
    path = folder / f"kit_{safe}.py"
    text = source + _TAIL.format(task_type=task_type, name=function.__name__)
    write_private(path, text.encode())
    return path


def _source_of(function: Callable[..., Any]) -> str:
    way = "define it at the top of a module of its own that imports nothing beside it"
    name = getattr(function, "__name__", "")
    module = sys.modules.get(getattr(function, "__module__", ""))
    if (
        not inspect.isfunction(function)
        or not name.isidentifier()
        or keyword.iskeyword(name)
        or module is None
        or getattr(module, name, None) is not function
    ):
        raise KitError(ErrorType.VALIDATION, f"a handler is a function of a module; {way}")
    if module.__name__ == "__main__":
        # Its file would run again in every process of a handler, and start this kit there.
        raise KitError(ErrorType.VALIDATION, f"{name} is defined in the main program; {way}")
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError) as error:
        raise KitError(ErrorType.VALIDATION, f"the file of {name} can't be read; {way}") from error
    relative = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom) and n.level]
    if relative:
        raise KitError(ErrorType.VALIDATION, f"the file of {name} imports what is beside it; {way}")
    return source
