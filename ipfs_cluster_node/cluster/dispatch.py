"""Assigns pending tasks to workers while this node leads."""

import asyncio
import logging
from typing import Final

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.worker_sessions import WorkerSessions
from ipfs_cluster_node.core.commands import AssignTasks
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.scheduler import plan

log = logging.getLogger(__name__)

ASSIGNMENTS_PER_COMMAND_MAX: Final = 512
RETRY_SECONDS: Final = 0.2


class Dispatch:
    """Plans and commits assignments; the sessions send them once they are committed."""

    def __init__(self, consensus: Consensus, sessions: WorkerSessions, *, clock: Clock) -> None:
        self._consensus, self._sessions, self._clock = consensus, sessions, clock

    async def run(self) -> None:
        """Plan and commit assignments whenever there are tasks and credit."""
        wake = self._sessions.wake
        while True:
            await wake.wait()
            wake.clear()
            while self._consensus.is_leader:
                planned = self._plan()
                if not planned:
                    break
                try:
                    # One plan at a time: the next one sees the credit this one used.
                    await self._consensus.propose(AssignTasks(assignments=tuple(planned)))
                except ClusterError as error:
                    log.info("assignment not committed", extra={"reason": error.reason})
                    await asyncio.sleep(RETRY_SECONDS)
                wake.clear()  # The next plan sees all changes so far.

    def _plan(self) -> list[tuple[TaskId, NodeId]]:
        state = self._consensus.leader_state()
        offers = self._sessions.offers(state, self._clock.monotonic())
        return plan(state.tasks, offers, count_max=ASSIGNMENTS_PER_COMMAND_MAX) if offers else []
