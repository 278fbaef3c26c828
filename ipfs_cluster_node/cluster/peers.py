"""The masters' addresses: stored when a node joins, and updated by heartbeats."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ipfs_cluster_node.adapters.net.channels import Target
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.config.files import read_regular, write_private
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import NodeId, did_from_node_id, node_id_of_voter

log = logging.getLogger(__name__)


class PeerBook:
    """The masters and their addresses, kept across restarts."""

    def __init__(self, path: Path) -> None:
        """Read what was stored at `path`."""
        self._path = path
        self._masters = _kept_masters(path)
        self._saved = self._masters
        self.leader: NodeId | None = None
        self.lookup: Callable[[NodeId], tuple[str, ...]] = _nowhere
        """The log's addresses of a node, on a master."""

    def endpoints(self, node_id: NodeId) -> tuple[str, ...]:
        """A node's addresses; empty if unknown."""
        return self.lookup(node_id) or self._masters.get(node_id, ())

    def all_endpoints(self, node_id: NodeId) -> list[str]:
        """All known addresses of a node, from whatever source."""
        return list(dict.fromkeys([*self.lookup(node_id), *self._masters.get(node_id, ())]))

    def is_master(self, node_id: NodeId) -> bool:
        """Whether the node is known as a master."""
        return node_id in self._masters

    def knows_other(self, node_id: NodeId) -> bool:
        """Whether a master is known that is not this node."""
        return bool(self._masters.keys() - {node_id})

    def follow(self, replica: Replica, machine: ReplicatedStateMachine) -> None:
        """Use a master's log: all of its entries, until the first is applied.

        Until a leader says what is committed, a node that lost its file would know no master: it
        would call no voter, and refuse those that call. Uncommitted entries serve here too: they
        only say whom to ask. They are written to the file, since the log may be refused: then they
        replace masters named by it alone.
        """
        self.lookup = lambda node_id: _endpoints_in(machine, node_id)
        voters = frozenset(map(node_id_of_voter, replica.voters))
        if voters <= self._masters.keys():
            return
        known = machine
        if not machine.state.cluster_id:
            known = ReplicatedStateMachine()
            try:
                replica.replay(known)
            except ClusterError as error:
                log.warning("masters not read from log", extra={"error": error.message})
                return
        found = {m.node_id: m.endpoints for m in known.state.members.masters()}
        self.learn((found | self._masters).items(), None)

    def unfollow(self) -> None:
        """Use no log any longer."""
        self.lookup = _nowhere

    def targets(self) -> list[Target]:
        """Every master's addresses, the leader's first."""
        ordered = sorted(self._masters, key=lambda node: node != self.leader)
        return [(address, node) for node in ordered for address in self._masters[node]]

    def learn(
        self, masters: Iterable[tuple[NodeId, tuple[str, ...]]], leader: NodeId | None
    ) -> None:
        """Take the leader's list; write it to disk if it is new."""
        learned = dict(masters)
        self.leader = leader
        if not learned:
            return
        self._masters = learned
        if learned != self._saved:
            try:
                save_masters(self._path, learned)
            except OSError as error:  # Perhaps the disk is full: the next answer tries again.
                log.warning("masters not written", extra={"error": repr(error)})
                return
            self._saved = learned


def _nowhere(_node_id: NodeId) -> tuple[str, ...]:
    return ()


def _endpoints_in(machine: ReplicatedStateMachine, node_id: NodeId) -> tuple[str, ...]:
    principal = machine.state.members.get(did_from_node_id(node_id))
    return () if principal is None or principal.removed else principal.endpoints


def _kept_masters(path: Path) -> dict[NodeId, tuple[str, ...]]:
    """The stored masters; none if unreadable: the log, or the operator, names them too."""
    try:
        kept = json.loads(read_regular(path))
        masters = {NodeId(node): tuple(endpoints) for node, endpoints in kept.items()}
        for node in masters:
            did_from_node_id(node)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, ClusterError) as error:
        log.warning(
            "file of the masters is unreadable; continuing without it",
            extra={"path": str(path), "error": repr(error)},
        )
        return {}
    return masters


def add_masters(path: Path, masters: Mapping[NodeId, tuple[str, ...]]) -> None:
    """Add masters, to be asked before those already known."""
    known = PeerBook(path)
    others = {
        node: known.endpoints(node) for _, node in known.targets() if node and node not in masters
    }
    save_masters(path, {**masters, **others})


def save_masters(path: Path, masters: Mapping[NodeId, tuple[str, ...]]) -> None:
    """Store the masters' addresses."""
    write_private(path, json.dumps({node: list(e) for node, e in masters.items()}).encode())
