"""The namespaces that a file is in. Equal bytes are one file, in each namespace that has it.

A record of an older log names none: that file is in `default`, or goes with the task whose result
it is. What changes such a record names them from then on.
"""

from collections.abc import Callable, Container, Iterable
from dataclasses import replace

from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import DEFAULT_NAMESPACE, Content, ContentMaker, Task

TaskOf = Callable[[TaskId], Task | None]
"""Finds a task that is not deleted yet."""


def is_named(content: Content) -> bool:
    """Whether its record names its namespaces."""
    return bool(content.namespaces or content.makers)


def namespaces_of(content: Content, task_of: TaskOf) -> tuple[str, ...]:
    """Those it is in, sorted; none if it stays only as the input of a task."""
    if not content.makers:
        if content.namespaces:
            return content.namespaces
        if not content.goes_with:
            return (DEFAULT_NAMESPACE,)
        task = task_of(content.goes_with)
        return () if task is None else (task.spec.namespace,)
    if not content.namespaces and len(content.makers) == 1:
        return (content.makers[0].namespace,)
    return tuple(sorted({*content.namespaces, *(each.namespace for each in content.makers)}))


def kept_namespaces_of(content: Content) -> tuple[str, ...]:
    """Those of them in which it stays until it is removed; in others as long as a task."""
    return (
        content.namespaces if content.makers or content.goes_with else namespaces_of(content, _no)
    )


def named(content: Content, task_of: TaskOf) -> Content:
    """The same file, with its namespaces in the record."""
    if is_named(content):
        return content
    inside = namespaces_of(content, task_of)
    if not content.goes_with:
        return replace(content, namespaces=inside)
    makers = (ContentMaker(namespace=each, task_id=content.goes_with) for each in inside)
    return replace(content, makers=tuple(makers))


def made_in(content: Content, namespace: str, task_id: TaskId) -> Content:
    """A file once it comes as a task's result too."""
    makers = {each.namespace: each for each in content.makers}
    makers[namespace] = ContentMaker(namespace=namespace, task_id=task_id)
    in_order = tuple(makers[each] for each in sorted(makers))
    return replace(content, goes_with=task_id, makers=in_order)


def kept_in(content: Content, namespaces: Iterable[str]) -> Content:
    """A file once it is kept in these namespaces too."""
    return replace(content, namespaces=tuple(sorted({*content.namespaces, *namespaces})))


def not_made_in(content: Content, namespaces: Container[str]) -> Content:
    """A file once it is no task's result in these namespaces."""
    makers = tuple(each for each in content.makers if each.namespace not in namespaces)
    return replace(content, makers=makers)


def without(content: Content, namespaces: Container[str]) -> Content:
    """A file once it is removed from these namespaces."""
    kept = tuple(each for each in content.namespaces if each not in namespaces)
    return replace(not_made_in(content, namespaces), namespaces=kept)


def _no(_task_id: TaskId) -> None:
    """Find no task."""
