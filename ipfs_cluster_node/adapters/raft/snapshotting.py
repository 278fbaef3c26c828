"""Making and loading snapshots: long work that runs in a thread, one at a time."""

import logging
from collections.abc import Callable
from contextlib import closing
from typing import Final

from ipfs_cluster_node.adapters.raft.disk import Disk
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError, of_another_release
from ipfs_cluster_node.adapters.raft.snapshot import (
    SNAPSHOT_NAME,
    Position,
    SnapshotFile,
    open_snapshot,
    store_snapshot,
)
from ipfs_cluster_node.adapters.raft.state_machine import StateMachine
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId

log = logging.getLogger(__name__)

RECEIVED_NAME: Final = "snapshot.part"
"""File that gathers what a leader sends."""


class Making:
    """A snapshot of this node's own state."""

    def __init__(self, disk: Disk, machine: StateMachine, position: Position) -> None:
        """Freeze the present state, which is that at `position`."""
        self._disk = disk
        self._encode = machine.freeze()
        self.position = position

    def run(self) -> None:
        """Encode the state and make it durable; blocks."""
        store_snapshot(self._disk, self.position, self._encode())


class Loading:
    """A snapshot from a leader, complete but not checked yet."""

    def __init__(self, disk: Disk, machine: StateMachine, sender: VoterId, index: int) -> None:
        """Load the gathered file, which `sender` says is the state at `index`."""
        self._disk, self._machine = disk, machine
        self.sender, self.index = sender, index
        self.position: Position | None = None
        """Its position in the log, once it is durable; None if it can't be used."""
        self.size_bytes = 0
        self.use: Callable[[], None] = _nothing
        """Replaces the present state with the loaded one."""

    def run(self) -> None:
        """Check it (hazard H6), decode it, make it durable; blocks.

        Raises:
            ClusterError: RELEASE_TOO_OLD.
            OSError: The disk failed.
        """
        try:
            file = open_snapshot(self._disk, RECEIVED_NAME)
        except LogDamagedError:
            file = None
        if file is None:
            log.warning("received snapshot is damaged", extra={"sender": self.sender})
            return
        with closing(file):
            try:
                self.use = load_state(self._machine, file)
            except OSError:
                raise  # The disk failed.
            except ClusterError as error:
                if error.reason is Reason.RELEASE_TOO_OLD:
                    raise  # This node would never catch up, and not say why.
                log.exception("received snapshot can't be decoded", extra={"sender": self.sender})
                return
            except Exception:
                # Once stored, it would end the node at each start.
                log.exception("received snapshot can't be decoded", extra={"sender": self.sender})
                return
        self._disk.rename(RECEIVED_NAME, SNAPSHOT_NAME)
        self.position, self.size_bytes = file.position, file.size_bytes


def use_stored_state(machine: StateMachine, snapshot: SnapshotFile) -> None:
    """Restore a state machine from this node's own snapshot; raises RELEASE_TOO_OLD."""
    try:
        load_state(machine, snapshot)()
    except (ClusterError, OSError, MemoryError):
        raise
    except Exception as error:
        # Its checksum is right: nothing is damaged.
        raise of_another_release("the snapshot of the log") from error


def load_state(machine: StateMachine, file: SnapshotFile) -> Callable[[], None]:
    """Decode the state of a snapshot; the returned function has the machine use it."""
    return _nothing if file.is_empty else machine.load(file.position.index, file.parts())


def _nothing() -> None:
    pass
