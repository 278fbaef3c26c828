"""A function of the user's as a handler of the kit's own worker: its file is copied there."""

import ast
import inspect
import keyword
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

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


def handler_file(task_type: str, function: Callable[..., Any]) -> tuple[str, bytes]:
    """The name and text of the file by which a node runs the function for a type of task.

    Raises:
        KitError: The function can't run in another process by its file alone.
    """
    if not isinstance(task_type, str) or not NAME_PATTERN.fullmatch(task_type):
        raise KitError(
            ErrorType.VALIDATION,
            f"{task_type!r:.80} is no type of a task; give 1 to 64 characters of A-Z a-z 0-9 . _ - "
            "that begin with a letter or digit",
        )
    source = _source_of(function)
    _check_takes_a_payload(function)
    # Each type has a file of its own: `a.b` and `a_b` too.
    name = "".join(c if c.isalnum() else f"_{ord(c):02x}" for c in task_type)
    return f"kit_{name}.py", (
        source + _TAIL.format(task_type=task_type, name=function.__name__)
    ).encode()


def why_refused(path: Path, detail: str) -> str:
    """Why a node does not load this file, and what to do about it, of the detail of its health."""
    pattern = rf"(?:^not loaded: |; ){re.escape(str(path))} \((.*?)\)(?:; |: correct that)"
    own = re.search(pattern, detail, re.DOTALL)
    if own is None:  # It is named in the reason: two files have the type.
        both = detail.removeprefix("not loaded: ").partition(": correct that")[0]
        return f"another file handles the type too: {both}"
    why = own[1]
    return (
        f"the node can't load the file of the function: {why}; correct your module, which is "
        "copied alone, so that what it imports must be installed, and register it again"
    )


def _check_takes_a_payload(function: Callable[..., Any]) -> None:
    way = "a handler takes the payload alone, and returns the result"
    try:
        inspect.signature(function).bind({})
    except TypeError as error:
        raise KitError(ErrorType.VALIDATION, f"{function.__name__}: {error}; {way}") from error
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise KitError(ErrorType.VALIDATION, f"{function.__name__} is asynchronous; {way}")
    if inspect.isgeneratorfunction(function):
        raise KitError(ErrorType.VALIDATION, f"{function.__name__} is a generator; {way}")


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
