"""Fails tasks whose time is over, while this node leads."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.core.commands import TimeOutTasks
from ipfs_cluster_node.core.errors import ClusterError

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
TIMED_OUT_COUNT_MAX: Final = 500
"""Tasks that one command fails; the next one continues."""


class TaskTimeouts:
    """Proposes what the cluster's clock says; each master then judges by the command's time."""

    def __init__(self, consensus: Consensus, check_clock: Callable[[], None]) -> None:
        """Judge by `consensus.now_ms`.

        Args:
            consensus: The state, and how it is changed.
            check_clock: Raises ClusterError where this node's clock can't be trusted: then nothing
                times out, since what was failed by a wrong clock would stay so.
        """
        self._consensus, self._check_clock = consensus, check_clock

    async def run(self) -> None:
        """Look for tasks whose time is over, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not self._consensus.is_leader:
                continue
            try:
                while await self._time_out() == TIMED_OUT_COUNT_MAX:
                    pass
            except ClusterError as error:
                log.info("tasks not timed out", extra={"reason": error.reason})

    async def _time_out(self) -> int:
        tasks = self._consensus.leader_state().tasks
        task_ids = tasks.overdue(self._consensus.now_ms(), TIMED_OUT_COUNT_MAX)
        if task_ids:
            self._check_clock()
            await self._consensus.propose(TimeOutTasks(task_ids=task_ids))
        return len(task_ids)
