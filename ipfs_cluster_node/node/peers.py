"""Where the masters are: what a node remembers from its joining and hears with each heartbeat."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ipfs_cluster_node.adapters.net.channels import Target
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.core.ids import NodeId

log = logging.getLogger(__name__)


class PeerBook:
    """The masters and their addresses, kept over restarts."""

    def __init__(self, path: Path) -> None:
        """Read what was kept at `path`."""
        self._path = path
        self._masters: dict[NodeId, tuple[str, ...]] = {}
        if path.exists():
            kept = json.loads(path.read_bytes())
            self._masters = {NodeId(node): tuple(endpoints) for node, endpoints in kept.items()}
        self._saved = self._masters
        self.leader: NodeId | None = None
        self.lookup: Callable[[NodeId], tuple[str, ...]] = lambda _node: ()
        """What the log says of a node, on a master."""

    def endpoints(self, node_id: NodeId) -> tuple[str, ...]:
        """Where a node is reached; empty if that is not known."""
        return self.lookup(node_id) or self._masters.get(node_id, ())

    def is_master(self, node_id: NodeId) -> bool:
        """Whether the node is known as a master."""
        return node_id in self._masters

    def targets(self) -> list[Target]:
        """Every master's addresses, the leader's first."""
        ordered = sorted(self._masters, key=lambda node: node != self.leader)
        return [(address, node) for node in ordered for address in self._masters[node]]

    def learn(
        self, masters: Iterable[tuple[NodeId, tuple[str, ...]]], leader: NodeId | None
    ) -> None:
        """Take what the leader said; write it down if it is new."""
        learned = dict(masters)
        self.leader = leader
        if not learned:
            return
        self._masters = learned
        if learned != self._saved:
            try:
                save_masters(self._path, learned)
            except OSError as error:  # The disk is full, perhaps: tried again with the next answer.
                log.warning("masters not written down", extra={"error": repr(error)})
                return
            self._saved = learned


def add_masters(path: Path, masters: Mapping[NodeId, tuple[str, ...]]) -> None:
    """Remember more masters, to ask before those that are known."""
    known = PeerBook(path)
    others = {
        node: known.endpoints(node) for _, node in known.targets() if node and node not in masters
    }
    save_masters(path, {**masters, **others})


def save_masters(path: Path, masters: Mapping[NodeId, tuple[str, ...]]) -> None:
    """Keep where the masters are."""
    write_private(path, json.dumps({node: list(e) for node, e in masters.items()}).encode())
