"""Entries of the log, applied to a state machine."""

import logging
from collections.abc import Callable

from ipfs_cluster_node.adapters.raft.journal import REGULAR, SegmentedJournal
from ipfs_cluster_node.adapters.raft.proposals import commands_of
from ipfs_cluster_node.adapters.raft.state_machine import StateMachine
from ipfs_cluster_node.core.errors import ClusterError, Reason

log = logging.getLogger(__name__)


class Applier:
    """A state machine, and how far the log has been applied to it."""

    def __init__(
        self,
        machine: StateMachine,
        index: int,
        on_results: Callable[[bytes, list[object]], None],
    ) -> None:
        """Apply entries above `index`; `on_results` is called with each entry and its results."""
        self.machine, self.index = machine, index
        self._on_results = on_results

    def apply(self, index: int, entry: bytes) -> None:
        """Apply an entry, unless it was applied before a reopening; raises RELEASE_TOO_OLD."""
        if index <= self.index:
            return
        self.index = index
        results = apply_entry(self.machine, index, entry)
        if results is not None:
            self._on_results(entry, results)


def apply_entry(machine: StateMachine, index: int, entry: bytes) -> list[object] | None:
    """Apply the commands of an entry; returns their results, None if it can't be read.

    Raises:
        ClusterError: RELEASE_TOO_OLD: this replica must stop here.
    """
    try:
        commands = list(commands_of(entry))
    except ValueError:
        # `messages.py` refuses such an entry of a peer. Every replica skips it; none stops (hazard
        # H11).
        log.critical("an entry that is no batch is skipped", extra={"index": index})
        return None
    results = [_apply_command(machine, index, command) for command in commands]
    try:
        machine.end_entry(index)
    except Exception:  # As with a command: raised again, it would stop every replica (hazard H11).
        log.exception("the end of an entry raised", extra={"index": index})
    return results


def _apply_command(machine: StateMachine, index: int, command: bytes) -> object:
    if not command:
        return None
    try:
        return machine.apply(index, command)
    except Exception as error:
        if isinstance(error, ClusterError) and error.reason is Reason.RELEASE_TOO_OLD:
            raise  # Without this command its state would differ from the others'.
        # Raised again, it would stop every replica, at each start (hazard H11).
        log.exception("apply raised", extra={"index": index})
        return ClusterError(Reason.INTERNAL, "the command could not be applied; see the log")


def apply_entries(machine: StateMachine, journal: SegmentedJournal, *, after: int) -> None:
    """Apply every entry above an index, committed or not; raises RELEASE_TOO_OLD."""
    for command, index, _ in journal[:]:
        if index > after and command[:1] == REGULAR:
            apply_entry(machine, index, command[1:])
