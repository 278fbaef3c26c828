"""Changes of who votes and who leads, made through a replica that leads."""

import asyncio
from contextlib import suppress

from ipfs_cluster_node.adapters.raft.replica_peers import ReplicaPeers
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId, node_id_of_voter


class ReplicaVoters(ReplicaPeers):
    """Adds and removes voters, one at a time, and hands leadership over."""

    async def add_voter(self, voter: VoterId) -> None:
        """Let a master vote; returns once that is committed, at once if it votes already.

        It first gets the log as a learner, without voting: with a voter that is far behind, the
        others would lose their majority as soon as one of them failed.

        Raises:
            ClusterError: PEER_UNREACHABLE if it can't be dialled back,
                MEMBERSHIP_CHANGE_IN_PROGRESS while it catches up or another change is under way,
                and those of `propose`.
        """
        async with self._changing:
            self._check()
            self.engine.check_leads()
            if voter in self.voters:
                return
            self._joining.add(voter)
            try:
                await self._reach(voter)
                await self._catch_up(voter)
                await self._change("add", voter)
            finally:
                self._joining.discard(voter)

    async def remove_voter(self, voter: VoterId) -> None:
        """Take a master's vote away; returns once that is committed, at once if it has none.

        Raises:
            ClusterError: QUORUM_AT_RISK for this node or if the others would have no majority
                connected; MEMBERSHIP_CHANGE_IN_PROGRESS, and those of `propose`.
        """
        async with self._changing:
            self._check()
            self.engine.check_leads()
            if voter in self.voters:
                if voter != self.voter:  # The engine refuses its own.
                    self.check_removal(voter)
                await self._change("rem", voter)

    async def transfer_leadership(self, target: VoterId) -> None:
        """Hand leadership to another voter; returns once it leads.

        Raises:
            ClusterError: NOT_LEADER, NO_LEADER, MEMBER_NOT_FOUND; PEER_UNREACHABLE if it is not
                connected; UNKNOWN_OUTCOME if the target did not take over in time: this node
                may still lead, or a third one.
        """
        self._check()
        self.engine.check_leads()
        if target in self.voters - {self.voter} and not self._is_connected(target):
            raise ClusterError(
                Reason.PEER_UNREACHABLE,
                f"{node_id_of_voter(target)} is not connected; start it, or name another",
            )
        self.engine.transfer_leadership(target)
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * self._config.election_timeout_max.total_seconds()):
                while self.leader != node_id_of_voter(target):
                    await asyncio.sleep(self._config.tick_interval.total_seconds())
                return
        raise ClusterError(
            Reason.UNKNOWN_OUTCOME, f"{node_id_of_voter(target)} did not take over in time"
        )

    def successor(self) -> VoterId:
        """The connected voter with most of this leader's log; raises PEER_UNREACHABLE if none."""
        connected = [v for v in sorted(self.voters - {self.voter}) if self._is_connected(v)]
        if not connected:
            raise ClusterError(Reason.PEER_UNREACHABLE, "no other master is connected; start one")
        return max(connected, key=self.engine.match_index)

    async def _change(self, operation: str, voter: VoterId) -> None:
        self.engine.change_voters(operation, voter)
        self._wake.set()
        # It is committed at the latest with the next command, so an empty one is proposed.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.connect_timeout.total_seconds()):
                await self.propose(b"")
        done = (voter in self.voters) == (operation == "add")
        if not done or not self.engine.can_change_voters:
            raise ClusterError(Reason.UNKNOWN_OUTCOME, "the change is not committed yet; try again")

    async def _reach(self, voter: VoterId) -> None:
        link = self._link(voter)
        try:
            async with asyncio.timeout(self._config.connect_timeout.total_seconds()):
                await link.up.wait()
        except TimeoutError:
            raise ClusterError(
                Reason.PEER_UNREACHABLE,
                f"{node_id_of_voter(voter)} can't be reached at its --advertise address; "
                "correct that",
            ) from None

    async def _catch_up(self, voter: VoterId) -> None:
        self.engine.add_learner(voter)
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.catch_up_timeout.total_seconds()):
                while self.engine.match_index(voter) < self.engine.commit_index:
                    self.engine.check_leads()
                    if voter not in self.engine.learners:
                        raise ClusterError(
                            Reason.PEER_UNREACHABLE,
                            f"{node_id_of_voter(voter)} disconnected; start it and try again",
                        )
                    await asyncio.sleep(self._config.tick_interval.total_seconds())
                return
        raise ClusterError(
            Reason.MEMBERSHIP_CHANGE_IN_PROGRESS,
            f"{node_id_of_voter(voter)} has {self.engine.match_index(voter)} of "
            f"{self.engine.commit_index} entries; it votes once it has caught up",
        )

    def check_removal(self, voter: VoterId) -> None:
        """Check that the other masters would have a majority connected; raises QUORUM_AT_RISK."""
        left = self.voters - {voter}
        if not left:
            raise ClusterError(
                Reason.QUORUM_AT_RISK,
                "it is the only master, and the cluster would end with it; join another one first",
            )
        connected = (self.voter in left) + sum(map(self._is_connected, left))
        if 2 * connected <= len(left):
            raise ClusterError(
                Reason.QUORUM_AT_RISK,
                f"without it {connected} of {len(left)} masters would be connected; start them",
            )
