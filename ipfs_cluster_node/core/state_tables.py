"""The tables that callers read, each a function of the replicated state at one instant.

An item of a table is what changes together, under one key: a node, a task, a setting, or a file
with all of its holders, which is a row each.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ipfs_cluster_node.core.authorization import (
    Args,
    ItemArgs,
    alternatives,
    in_its_namespaces,
    row_args_function,
)
from ipfs_cluster_node.core.columns import Schema
from ipfs_cluster_node.core.file_namespaces import TaskOf, is_named, namespaces_of
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId
from ipfs_cluster_node.core.model import Content, Principal, Task
from ipfs_cluster_node.core.schemas import CONFIG, CONTENT, NODES, ROW_KEYS, TASKS
from ipfs_cluster_node.core.settings import SETTINGS
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.tables import TableName

Voters = AbstractSet[NodeId]
Row = tuple[Any, ...]

_node_row, _node_args = NODES.row_function(), row_args_function(NODES)
_task_row, _task_args = TASKS.row_function(), row_args_function(TASKS)
_content_row, _content_args = CONTENT.row_function(), row_args_function(CONTENT)
_config_row, _config_args = CONFIG.row_function(), row_args_function(CONFIG)


class NodeItem(NamedTuple):
    """A node, and what is said of it elsewhere in the state."""

    node: Principal
    voter: bool
    running_attempt_count: int

    @property
    def key(self) -> str:
        """Its id."""
        return self.node.node_id

    def rows(self) -> Iterable[Row]:
        """Its row."""
        return (_node_row(self.node, self.voter, self.running_attempt_count),)

    def args(self, _caller: Did) -> Args:
        """What policies judge."""
        return _node_args(self.node)


class TaskItem(NamedTuple):
    """A task."""

    task: Task

    @property
    def key(self) -> str:
        """Its id."""
        return self.task.task_id

    def rows(self) -> Iterable[Row]:
        """Its row."""
        return (_task_row(self.task),)

    def args(self, caller: Did) -> Args:
        """What policies judge."""
        return _task_args(self.task, caller)


class FileItem(NamedTuple):
    """A file, and what says who holds it and in which namespace it is."""

    content: Content
    removed: AbstractSet[NodeId]
    """Nodes that are no longer members."""
    task_of: TaskOf
    shown: tuple[str, ...] | None = None
    """Those of its namespaces that are shown; None: all."""

    @property
    def key(self) -> str:
        """Its CID."""
        return self.content.cid

    def rows(self) -> Iterable[Row]:
        """A row for each holder."""
        holders = (each for each in self.content.holders if each not in self.removed)
        shown = self.shown
        if shown is None:
            shown = namespaces_of(self.content, self.task_of)
        return (_content_row(self.content, each, shown) for each in holders)

    def args(self, _caller: Did) -> ItemArgs:
        """What policies judge."""
        return in_its_namespaces(_content_args(self.content), self.content, self.task_of)


class SettingItem(NamedTuple):
    """A setting, or a user's key."""

    key: str
    value: str
    default: str

    def rows(self) -> Iterable[Row]:
        """Its row."""
        return (_config_row(self.key, self.value, self.default),)

    def args(self, _caller: Did) -> Args:
        """What policies judge."""
        return _config_args()


Item = NodeItem | TaskItem | FileItem | SettingItem

Allows = Callable[[Args], bool]
"""Whether an item with these arguments may be read."""


def readable(item: Item, caller: Did, allows: Allows) -> Item | None:
    """What a caller may read of an item; None if nothing."""
    ways = item.args(caller)
    if not isinstance(item, FileItem) or not isinstance(ways, tuple):
        return item if any(map(allows, alternatives(ways))) else None
    shown = tuple(str(args["namespace"]) for args in ways if allows(args))
    return item._replace(shown=shown) if shown else None


@dataclass(frozen=True, slots=True)
class Items:
    """Items as of one instant, however late they are iterated."""

    of: Sequence[Any]
    make: Callable[[Any], Item | None] = lambda item: item

    def __iter__(self) -> Iterator[Item | None]:
        """Each item; None for one that there was not."""
        return map(self.make, self.of)


class StateTable(NamedTuple):
    """A table that callers read."""

    schema: Schema
    replicated: TableName
    """The replicated table by whose keys its items change."""
    items: Callable[[ClusterState, Voters, Sequence[Any] | None], Items]
    """The items of these keys of `replicated`, None for all, as of the call."""
    names: Callable[[ClusterState, Sequence[Any]], Sequence[str]] = lambda _state, keys: keys
    """The keys of the items, present or gone, of these keys of `replicated`."""

    @property
    def has_groups(self) -> bool:
        """Whether an item may have several rows, or none: the old ones are dropped first."""
        return len(ROW_KEYS[self.schema.name]) > 1


def _nodes(state: ClusterState, voters: Voters, keys: Sequence[Any] | None) -> Items:
    found = state.members.nodes() if keys is None else map(state.members.get, keys)
    running = state.tasks.running_count
    return Items(
        [
            NodeItem(each, each.node_id in voters, running(each.node_id))
            for each in found
            if each is not None and each.is_node and not each.removed
        ]
    )


def _node_names(state: ClusterState, keys: Sequence[Any]) -> Sequence[str]:
    found = filter(None, map(state.members.get, keys))  # Also removed ones.
    return [each.node_id for each in found if each.is_node]


def _tasks(state: ClusterState, _voters: Voters, keys: Sequence[Any] | None) -> Items:
    rows = state.tasks.copy() if keys is None else list(map(state.tasks.get, keys))
    return Items(rows, lambda task: None if task is None else TaskItem(task))


def _files(state: ClusterState, _voters: Voters, keys: Sequence[Any] | None) -> Items:
    contents = state.contents
    rows = tuple(contents.values()) if keys is None else list(map(contents.get, keys))
    removed, task_of = _removed_nodes(state), _task_of(state, None if keys is None else rows)
    return Items(rows, lambda row: None if row is None else FileItem(row, removed, task_of))


def _task_of(state: ClusterState, of: Iterable[Content | None] | None) -> TaskOf:
    """The tasks as they are now, by which the namespaces of some files are known; None: of all.

    Only records of older logs need one. Whoever reads the files keeps the copy, so it is not of
    all tasks for a few files.
    """
    if not state.contents.has_unnamed:
        return dict[TaskId, Task]().get
    tasks = state.tasks
    if of is None:
        return tasks.by_id().get
    makers = {each.goes_with for each in of if each is not None and not is_named(each)}
    return {task_id: task for task_id in makers if (task := tasks.get(task_id))}.get


def _removed_nodes(state: ClusterState) -> frozenset[NodeId]:
    members = state.members.principals()
    return frozenset(each.node_id for each in members if each.removed and each.is_node)


def _settings(state: ClusterState, _voters: Voters, keys: Sequence[Any] | None) -> Items:
    settings = state.settings
    present = SETTINGS.keys() | settings.changed.keys()
    return Items(
        [
            SettingItem(key, settings.text(key), SETTINGS[key].default if key in SETTINGS else "")
            for key in (settings.keys() if keys is None else keys)
            if key in present
        ]
    )


STATE_TABLES: Final[Mapping[str, StateTable]] = {
    table.schema.name: table
    for table in (
        StateTable(NODES, TableName.PRINCIPALS, _nodes, _node_names),
        StateTable(TASKS, TableName.TASKS, _tasks),
        StateTable(CONTENT, TableName.CONTENTS, _files),
        StateTable(CONFIG, TableName.SETTINGS, _settings),
    )
}
"""By name."""
