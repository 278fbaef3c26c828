"""A master's copy of the log."""

import asyncio
from typing import Final

from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.adapters.raft.config import TRAILING_ENTRIES, RaftConfig
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.internal.v1 import raft_pb2_grpc
from ipfs_cluster_node.node.parts.common import CommonPart
from ipfs_cluster_node.node.parts.part import Part
from ipfs_cluster_node.services.gate import Gate
from ipfs_cluster_node.services.raft import RaftServicer

TRAILING_SHARE: Final = 10
"""Of the entries between two snapshots, one in this many is kept behind the newer one."""


class LogPart(Part):
    """On masters."""

    def __init__(self, common: CommonPart) -> None:
        """Open the log, and learn the masters from it.

        Raises:
            LogDamagedError: It can't be trusted.
            ClusterError: Why else it can't be opened.
        """
        raft = common.settings.raft
        self.machine = ReplicatedStateMachine()
        self.replica = Replica(
            directory=common.home.raft,
            notes=common.home.state,
            boot=common.boot,
            boots=common.boots,
            machine=self.machine,
            dial=common.channels.dial_raft,
            config=RaftConfig(
                heartbeat_interval=raft.heartbeat_interval,
                election_timeout_min=raft.election_timeout_min,
                election_timeout_max=raft.election_timeout_max,
                snapshot_entries=raft.snapshot_entries,
                trailing_entries=min(TRAILING_ENTRIES, raft.snapshot_entries // TRAILING_SHARE),
            ),
        )
        common.peers.follow(self.replica, self.machine)
        common.connection.learn(common.targets())
        common.certificate.on_renewed.append(self._redial)
        self.loops = {"raft": self._run}

    @property
    def incarnation(self) -> int:
        """This node's name as a voter."""
        return int(self.replica.voter.rpartition(".")[2])

    def serve(self, gate: Gate) -> None:
        """Take part in consensus."""
        raft_pb2_grpc.add_RaftServiceServicer_to_server(RaftServicer(self.replica), gate.as_server)

    async def _run(self) -> None:
        try:
            await self.replica.run()
        except ClusterError as error:
            # The node continues without a vote and a log, to report the reason in its health.
            if error.reason is not Reason.LOG_STORAGE_FAILED:
                raise
            await asyncio.Event().wait()

    async def _redial(self, _tls: ClientTls) -> None:
        self.replica.redial()
