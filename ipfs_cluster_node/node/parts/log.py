"""A master's copy of the log, and what the node does with it."""

import asyncio
from typing import Final

from ipfs_cluster_node.adapters.keys.sealing import SealKey
from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.adapters.raft.config import TRAILING_ENTRIES, RaftConfig
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.node.files import load_files
from ipfs_cluster_node.node.log_replacement import check_replaced
from ipfs_cluster_node.node.parts.common import CommonPart
from ipfs_cluster_node.node.parts.member import MemberPart
from ipfs_cluster_node.node.parts.part import Part

TRAILING_SHARE: Final = 10
"""Of the entries between two snapshots, one in this many is kept behind the newer one."""


class LogPart(Part):
    """On masters."""

    def __init__(self, common: CommonPart, member: MemberPart) -> None:
        """Open the log, which blocks; nothing uses it until it is attached.

        Raises:
            LogDamagedError: It can't be trusted.
            ClusterError: Why else it can't be opened.
        """
        self._common, self._member = common, member
        self._ran = False
        home = common.home
        self._seal_key = load_files(home).seal_key
        self._recovery = SealKey.load(home.recovery_key) if home.recovery_key.exists() else None
        check_replaced(home, common.node_id)
        raft = common.settings.raft
        self.machine = ReplicatedStateMachine()
        self.replica = Replica(
            directory=home.raft,
            notes=home.state,
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
        self.loops = {"raft": self._run}

    def attach(self) -> None:
        """Answer from the log, learn the masters from it, and register as a voter."""
        common, member = self._common, self._member
        common.peers.follow(self.replica, self.machine)
        common.connection.learn(common.targets())
        common.certificate.on_renewed.append(self._redial)
        member.authority.use_keys(self._seal_key, self._recovery)
        member.consensus.use_log(self.machine, self.replica)
        member.state_watches.changes.follow(self.machine, self.replica)
        member.uplink.register_as(
            incarnation=int(self.replica.voter.rpartition(".")[2]),
            seal_key=member.authority.seal_public_key,
            enrolment_endpoints=common.settings.enrolment_endpoints,
        )
        member.check_callers_again()

    def detach(self) -> None:
        """Answer as a node without a log, which forgets what it knew by it."""
        common, member = self._common, self._member
        member.consensus.drop_log()
        member.state_watches.changes.unfollow()
        member.on_leadership(False)
        member.authorizer.forget()
        member.authority.forget_keys()
        member.uplink.register_as()
        member.check_callers_again()
        common.certificate.on_renewed.remove(self._redial)
        common.peers.unfollow()

    async def close(self) -> None:
        """Close the log; once it has run, its loop does that."""
        if not self._ran:
            self.replica.close()

    async def _run(self) -> None:
        self._ran = True
        try:
            await self.replica.run()
        except ClusterError as error:
            # The node continues without a vote and a log, to report the reason in its health.
            if error.reason is not Reason.LOG_STORAGE_FAILED:
                raise
            await asyncio.Event().wait()

    async def _redial(self, _tls: ClientTls) -> None:
        self.replica.redial()
