"""The cluster's files and their holders."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from ipfs_cluster_node.core.file_namespaces import is_named
from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.model import Content
from ipfs_cluster_node.core.sorted_keys import SortedKeys
from ipfs_cluster_node.core.tables import Notes, Table, TableName


class ContentTable(Table[str, Content]):
    """Files by CID."""

    def __init__(
        self,
        contents: Sequence[Content],
        was_removed: Callable[[NodeId], bool],
        notes: Notes | None = None,
    ) -> None:
        """Start from `contents`; `was_removed` says which nodes are no longer members."""
        rows = zip((content.cid for content in contents), contents, strict=True)
        super().__init__(TableName.CONTENTS, notes, rows)
        self._was_removed = was_removed
        self.cids = SortedKeys(self)
        self._unnamed: dict[TaskId, dict[str, None]] = {}
        """By task: the files whose records say only with which task they go, as in older logs."""
        for content in contents:
            self._index(content)

    def put(self, key: str, row: Content) -> None:
        """Add or replace a file."""
        self._unindex(key)
        super().put(key, row)
        self._index(row)

    def drop(self, key: str) -> Content:
        """Remove an existing file, and return it."""
        self._unindex(key)
        return super().drop(key)

    def _index(self, content: Content) -> None:
        if content.goes_with and not is_named(content):
            self._unnamed.setdefault(content.goes_with, {})[content.cid] = None

    def _unindex(self, cid: str) -> None:
        before = self.get(cid)
        if before is not None and before.goes_with and not is_named(before):
            files = self._unnamed[before.goes_with]
            del files[cid]
            if not files:
                del self._unnamed[before.goes_with]

    @property
    def has_unnamed(self) -> bool:
        """Whether there are files whose namespace is that of a task, as in older logs."""
        return bool(self._unnamed)

    def changed_by(self, task_ids: Iterable[TaskId]) -> list[str]:
        """The files whose namespace is known only as long as one of these tasks is."""
        return [cid for task_id in task_ids for cid in self._unnamed.get(task_id, ())]

    def add(self, content: Content, holders: Iterable[NodeId]) -> None:
        """Add a file, or change the one with its CID to it, and add its holders."""
        existing = self.get(content.cid)
        if existing is None:
            self.cids.add(content.cid)
        if existing != content:
            self.put(content.cid, content)
        self.hold(content.cid, holders)

    def remove(self, cid: str) -> None:
        """Remove an existing file."""
        self.drop(cid)
        self.cids.remove(cid)

    def hold(self, cid: str, node_ids: Iterable[NodeId]) -> None:
        """Add holders of an existing file."""
        content = self[cid]
        new = tuple(node_id for node_id in node_ids if node_id not in content.holders)
        if new:
            self.put(cid, replace(content, holders=(*self.holders_of(content), *new)))

    def listed(self, prefix: str = "", after: str = "") -> Iterator[Content]:
        """The files by CID, of those after a CID and with this prefix.

        Files may be added or removed meanwhile: of a removed one nothing is yielded.
        """
        return filter(None, map(self.get, self.cids.starting_with(prefix, after)))

    def holders_of(self, content: Content) -> tuple[NodeId, ...]:
        """The nodes that hold a file. Removed ones are filtered here, not at their removal.

        A removed node may have held every file, and updating all at once would block every master.
        """
        if not any(map(self._was_removed, content.holders)):
            return content.holders
        return tuple(node_id for node_id in content.holders if not self._was_removed(node_id))
