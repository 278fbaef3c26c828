"""The files that the cluster holds, and which nodes have them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ipfs_cluster_node.core.ids import NodeId
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
        """Start from `contents`; `was_removed` says which nodes are no members any longer."""
        rows = zip((content.cid for content in contents), contents, strict=True)
        super().__init__(TableName.CONTENTS, notes, rows)
        self._was_removed = was_removed
        self.cids = SortedKeys(self)

    def add(self, content: Content, holders: Iterable[NodeId]) -> None:
        """Add a file unless it is there, and note who has it."""
        if content.cid not in self:
            self.put(content.cid, content)
            self.cids.add(content.cid)
        self.hold(content.cid, holders)

    def hold(self, cid: str, node_ids: Iterable[NodeId]) -> None:
        """Note that nodes have a file, which is there."""
        content = self[cid]
        new = tuple(node_id for node_id in node_ids if node_id not in content.holders)
        if new:
            self.put(cid, replace(content, holders=(*self.holders_of(content), *new)))

    def holders_of(self, content: Content) -> tuple[NodeId, ...]:
        """The nodes that have a file. Removed ones are left out here, not with their removal.

        One may have had every file, and to go through them at once would stop every master.
        """
        if not any(map(self._was_removed, content.holders)):
            return content.holders
        return tuple(node_id for node_id in content.holders if not self._was_removed(node_id))
