"""The replica: one task that drives an engine, the links to the other voters, and who waits."""

import asyncio
import logging
import math
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ipfs_cluster_node.adapters.raft.applying import apply_entries
from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk, Disk
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.errors import ConsensusViolationError, LogDamagedError
from ipfs_cluster_node.adapters.raft.framing import FrameError, Unframer
from ipfs_cluster_node.adapters.raft.link import Dial, Link
from ipfs_cluster_node.adapters.raft.outages import (
    PROBE_BYTES,
    PROBE_NAME,
    RETRY_SECONDS_MIN,
    Outage,
    first_pause,
    next_pause,
    passes,
)
from ipfs_cluster_node.adapters.raft.proposals import Proposal
from ipfs_cluster_node.adapters.raft.snapshot import Position
from ipfs_cluster_node.adapters.raft.state_machine import StateMachine
from ipfs_cluster_node.adapters.raft.witness import Mark, mark_from_proto, open_notes
from ipfs_cluster_node.adapters.raft.write_latency import WriteLatency
from ipfs_cluster_node.adapters.raft.writer import Writer
from ipfs_cluster_node.core.boots import UNKNOWN, Boots
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, VoterId, node_id_of_voter
from ipfs_cluster_node.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

CROWD: Final = 2
"""So many proposals at once, now or in the last batch, mean that more may be on their way."""
GATHER_SECONDS_MAX: Final = 0.025
"""How long a batch waits for them, at most."""
GATHER_QUIET_SECONDS: Final = 0.001
"""How long none may come before the batch goes: longer than gRPC takes to hand over a call."""


class Replica:
    """This node's copy of the log, and its vote."""

    def __init__(
        self,
        *,
        directory: Path,
        machine: StateMachine,
        dial: Dial,
        config: RaftConfig,
        notes: Path | None = None,
        boot: int = UNKNOWN,
        boots: Boots | None = None,
    ) -> None:
        """Open the store and restore the state machine.

        Args:
            directory: Made by `create_store`.
            machine: Restored here if there is a snapshot, then driven by `run`.
            dial: Opens a channel to a master; the replica closes it.
            config: Times and bounds.
            notes: Where it is noted how far voters came; not within `directory`.
            boot: Names this process among those of the same identity.
            boots: Which processes speak for other nodes.

        Raises:
            LogDamagedError: The store is not whole, or not there, or an old copy of it.
        """
        self._directory, self._machine, self._notes = directory, machine, notes
        self._dial, self._config = dial, config
        self.engine = self._open(DirectoryDisk(directory))
        self.voter = self.engine.voter
        self._inbox: deque[tuple[VoterId, pb.RaftMessage, int]] = deque()
        self._inbox_bytes = 0
        self._inbox_has_room = asyncio.Event()
        self._inbound: dict[VoterId, object] = {}
        self._links: dict[VoterId, tuple[Link, asyncio.Task[None]]] = {}
        self._joining: set[VoterId] = set()
        self._snapshotting: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._changing = asyncio.Lock()
        self._latency = WriteLatency()
        self._beat_due = True
        self._stopping = False
        self.outage: Outage | None = None
        self.snapshot_outage: Outage | None = None
        """While there is no room for a snapshot: the log goes on, and grows."""
        self._boot, self._boots = boot, boots or Boots()
        self._damage: LogDamagedError | None = None
        """What another voter says of this one's log."""

    @property
    def on_leadership(self) -> Callable[[bool, int], None]:
        """Called in the loop when this node begins or ceases to lead, with the term."""
        return self.engine.on_leadership

    @on_leadership.setter
    def on_leadership(self, listener: Callable[[bool, int], None]) -> None:
        self.engine.on_leadership = listener

    @property
    def failed(self) -> ClusterError | None:
        """Why this node takes no part now; None if it does."""
        if self.outage is not None:
            return self.outage.error()
        if self._damage is not None:
            return self._damage
        if self._stopping:
            return ClusterError(Reason.SHUTTING_DOWN, "this node stops; ask another one")
        return None

    @property
    def is_leader(self) -> bool:
        """Whether this node leads, as far as it knows, and has applied all before its term."""
        return self.failed is None and self.engine.is_leader

    @property
    def leads_for_sure(self) -> bool:
        """Whether nobody else can lead now: what is read here is the newest there is."""
        return self.failed is None and self.engine.leads_for_sure

    @property
    def age_ms(self) -> int:
        """For how long what was committed may be missing here, on a node that does not lead."""
        return round(1000 * self.engine.age_seconds)

    @property
    def leader(self) -> NodeId | None:
        """The leader, as far as this node knows."""
        return self.engine.leader

    @property
    def term(self) -> int:
        """The current term."""
        return self.engine.term

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        return self.engine.commit_index

    @property
    def applied_index(self) -> int:
        """Highest index applied."""
        return self.engine.applied_index

    def position(self) -> Position:
        """Where in the log the state machine's present state is from."""
        return self.engine.position()

    @property
    def slow_write_seconds(self) -> float:
        """How long the slowest write of the last seconds took, if the disk is slow now; else 0."""
        return self._latency.slowest(now())

    @property
    def voters(self) -> frozenset[VoterId]:
        """Who votes, by the newest configuration in the log."""
        return self.engine.voters

    async def propose(self, command: bytes) -> object:
        """Commit a command and return what the state machine made of it here.

        Proposals that wait are committed together: one log entry, one sync, one round.

        Raises:
            ClusterError: NOT_LEADER, NO_LEADER, OVERLOADED, PAYLOAD_TOO_LARGE and
                LOG_STORAGE_FAILED if it certainly was not committed; UNKNOWN_OUTCOME otherwise.
        """
        self._check()
        result: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def on_done(outcome: object) -> None:
            if result.done():
                return
            if isinstance(outcome, ClusterError):
                # Who waited, and was not proposed yet, hears why there is no leader here.
                lost = outcome.reason is Reason.NO_LEADER and self.failed
                result.set_exception(lost or outcome)
            else:
                result.set_result(outcome)

        self.engine.propose(Proposal(command, on_done, given_up=result.done))
        if not self.engine.proposals.under_way:  # Else the step that ends the batch takes it.
            self._wake.set()
        return await result

    # Who votes.

    async def add_voter(self, voter: VoterId) -> None:
        """Let a master vote; returns once that is committed. Does nothing if it votes already.

        It first gets the log without voting, as a learner: a voter far behind would cost the
        others their majority when one of them fails.

        Raises:
            ClusterError: PEER_UNREACHABLE if it can't be dialled back,
                MEMBERSHIP_CHANGE_IN_PROGRESS while it catches up or another change is under way,
                and those of `propose`.
        """
        async with self._changing:  # One at a time (H12).
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
        """Let a master vote no more; returns once that is committed.

        Raises:
            ClusterError: QUORUM_AT_RISK for this node or if the others would have no majority
                connected; MEMBERSHIP_CHANGE_IN_PROGRESS, and those of `propose`.
        """
        async with self._changing:
            self._check()
            self.engine.check_leads()
            if voter in self.voters:
                self._check_removal(voter)
                await self._change("rem", voter)

    async def transfer_leadership(self, target: VoterId) -> None:
        """Hand leadership to another voter; returns once it is known to lead.

        Raises:
            ClusterError: NOT_LEADER, NO_LEADER, MEMBER_NOT_FOUND; PEER_UNREACHABLE if it is not
                connected; UNKNOWN_OUTCOME if the target did not take over in time: this node, or
                another, leads then.
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
        """The other voter that is connected and has most of this leader's log.

        Raises:
            ClusterError: PEER_UNREACHABLE if there is none.
        """
        connected = [v for v in sorted(self.voters - {self.voter}) if self._is_connected(v)]
        if not connected:
            raise ClusterError(Reason.PEER_UNREACHABLE, "no other master is connected; start one")
        return max(connected, key=self.engine.match_index)

    def _is_connected(self, voter: VoterId) -> bool:
        return voter in self._links and self._links[voter][0].up.is_set()

    async def _change(self, operation: str, voter: VoterId) -> None:
        self.engine.change_voters(operation, voter)
        self._wake.set()
        # Committed with the next command, whose result tells that it was.
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
                f"{node_id_of_voter(voter)} can't be dialled back; check its --advertise address",
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
                            Reason.PEER_UNREACHABLE, f"{node_id_of_voter(voter)} went away"
                        )
                    await asyncio.sleep(self._config.tick_interval.total_seconds())
                return
        raise ClusterError(
            Reason.MEMBERSHIP_CHANGE_IN_PROGRESS,
            f"{node_id_of_voter(voter)} has {self.engine.match_index(voter)} of "
            f"{self.engine.commit_index} entries; it votes once it has caught up",
        )

    def _check_removal(self, voter: VoterId) -> None:
        left = self.voters - {voter}
        connected = 1 + sum(map(self._is_connected, left))
        if voter != self.voter and 2 * connected <= len(left):  # The engine refuses its own.
            raise ClusterError(
                Reason.QUORUM_AT_RISK,
                f"without it {connected} of {len(left)} masters would be connected; start them",
            )

    def _check(self) -> None:
        failed = self.failed
        if failed is not None:
            raise failed

    # The loop.

    async def run(self) -> None:
        """Take part in consensus until cancelled; while the disk is full, wait for it.

        Raises:
            ClusterError: LOG_STORAGE_FAILED, once the disk fails for good: nothing is served.
            ClusterError: RELEASE_TOO_OLD, at what a newer release has written.
            LogDamagedError: After an outage not all is there that this node had acknowledged; or
                another voter knows that its log is an old copy.
        """
        pause, steady_since = RETRY_SECONDS_MIN, -math.inf
        while True:
            error = await self._take_part()
            if not passes(error):
                assert self.outage is not None
                raise self.outage.error() from error
            pause = first_pause(pause, steady_seconds=now() - steady_since)
            pause = await self._recover(pause)
            steady_since = now()

    async def _take_part(self) -> BaseException:
        """Run until the disk fails; returns how."""
        writer = Writer()
        beat = asyncio.create_task(self._beat(), name="raft-beat")
        try:
            while True:
                if self._beat_due:
                    self._beat_due = False
                    self._keep_links()
                await self._gather()
                await self._step(writer)
                self._check_damage()
                if self._inbox or self.engine.has_work:
                    await asyncio.sleep(0)
                    continue
                await self._wake.wait()
                self._wake.clear()
        except (OSError, ConsensusViolationError, MemoryError) as error:
            log.critical("log storage failed", extra={"error": repr(error)})
            self.outage = Outage(error, since=now())
            self.engine.stop_leading()
            return error
        finally:
            beat.cancel()
            self._stopping = self.outage is None
            await self._stop(writer)

    async def _recover(self, pause: float) -> float:
        """Wait until the log can be written again, and open it; returns the last pause."""
        assert self.outage is not None
        while True:
            await asyncio.sleep(pause)
            try:
                self.engine = await asyncio.to_thread(self._reopened)
                break
            except OSError as error:
                self.outage = Outage(error, since=self.outage.since)
                log.warning("log can't be written yet", extra={"error": repr(error)})
                if not passes(error):
                    raise self.outage.error() from error
            pause = next_pause(pause)
        seconds = now() - self.outage.since
        log.warning("log is written again", extra={"after_seconds": round(seconds, 1)})
        self._inbox.clear()
        self._inbox_bytes = 0
        self._latency = WriteLatency()
        self.outage = self.snapshot_outage = None
        return pause

    def _reopened(self) -> Engine:
        """Open the store as a start does, once it has been written to; blocks."""
        disk = DirectoryDisk(self._directory)
        try:
            disk.replace(PROBE_NAME, [bytes(PROBE_BYTES)])
            disk.remove(PROBE_NAME)
            engine = self._open(disk, before=self.engine)
            engine.journal.probe()
        except BaseException:
            disk.close()
            raise
        return engine

    def replay(self, machine: StateMachine) -> None:
        """Apply to another machine, which has this one's state, what is not known to be committed.

        Raises:
            ClusterError: RELEASE_TOO_OLD.
        """
        apply_entries(machine, self.engine.journal, after=self.applied_index)

    def _open(self, disk: Disk, before: Engine | None = None) -> Engine:
        return Engine(
            disk=disk,
            machine=self._machine,
            config=self._config,
            notes=None if self._notes is None else open_notes(self._notes),
            before=before,
        )

    async def _beat(self) -> None:
        while True:
            self._beat_due = True
            self._wake.set()
            if self._latency.under_way(now()) > self._config.fallback_timeout.total_seconds():
                self.engine.disk_hangs()
            await asyncio.sleep(self._config.tick_interval.total_seconds())

    async def _gather(self) -> None:
        """Let the calls of a crowd into one batch: a round costs as much as several of them.

        Who calls alone waits for nothing.
        """
        proposals = self.engine.proposals
        crowd = max(proposals.waiting_count, proposals.batch_count_last) >= CROWD
        if not (crowd and proposals.waits and not proposals.under_way):
            return
        began = last_at = moment = now()
        count = proposals.waiting_count
        while moment < min(began + GATHER_SECONDS_MAX, last_at + GATHER_QUIET_SECONDS):
            await asyncio.sleep(0)
            moment = now()
            if proposals.waiting_count != count:
                count, last_at = proposals.waiting_count, moment

    async def _step(self, writer: Writer) -> None:
        taken = 0
        while self._inbox and taken < self._config.step_bytes_max:
            sender, message, size = self._inbox.popleft()
            taken += size
            self.engine.receive(sender, message)
        self._inbox_bytes -= taken
        self._inbox_has_room.set()
        step = self.engine.begin_step()
        for peer, message in step.appends:
            self._link(peer).send(message)
        if step.writes:
            self._latency.began(now())
            await writer.run(step.write)
            self._latency.ended(now())
        self._check_damage()
        for peer, message in self.engine.end_step():
            self._link(peer).send(message)
        self._consider_snapshot()

    def _consider_snapshot(self) -> None:
        if self._snapshotting is None:
            make = self.engine.take_snapshot()
            if make is not None:
                self._snapshotting = asyncio.create_task(
                    asyncio.to_thread(make), name="raft-snapshot"
                )
        elif self._snapshotting.done():
            task, self._snapshotting = self._snapshotting, None
            error = task.exception()
            if error is None:
                self.engine.snapshot_taken()
                self.snapshot_outage = None
            elif passes(error) and self.engine.snapshot_failed():
                log.error("no room for a snapshot", extra={"error": repr(error)})
                self.snapshot_outage = Outage(error, since=now())
            else:
                raise error  # A failed write is a failed disk.

    async def _stop(self, writer: Writer) -> None:
        self.engine.give_up()
        self._inbox_has_room.set()
        tasks = [task for _, task in self._links.values()]
        for task in tasks:
            task.cancel()
        if self._snapshotting is not None:
            tasks.append(self._snapshotting)  # Its thread can't be stopped.
        await asyncio.gather(*tasks, return_exceptions=True)
        self._links.clear()
        self._snapshotting = None
        if await writer.stop():
            note = self.engine.last_note()
            if note is not None:
                with suppress(OSError):
                    await asyncio.to_thread(note.write)
            self.engine.close()

    # Peers.

    async def exchange(
        self, peer: NodeId, requests: AsyncIterator[pb.ExchangeRequest]
    ) -> AsyncIterator[pb.ExchangeResponse]:
        """Serve one stream of a peer whose node id TLS has proved.

        Raises:
            ClusterError: CALLER_NOT_ALLOWED for another node's name, INVALID_ARGUMENT for bytes
                that are no message, LOG_ROLLED_BACK, MEMBER_RUNS_TWICE, SHUTTING_DOWN.
        """
        self._check()
        messages = aiter(requests)
        first = await anext(messages, None)
        sender = VoterId(first.hello.voter) if first is not None else VoterId("")
        if node_id_of_voter(sender) != peer:
            raise ClusterError(Reason.CALLER_NOT_ALLOWED, "a voter speaks for itself only")
        assert first is not None
        self._boots.joined(peer, first.hello.boot)
        stream = self._inbound[sender] = object()
        try:
            if sender in self._links:
                self._links[sender][0].reconnect_now()
            epoch = secrets.randbits(64)
            unframer = Unframer(epoch)
            known = self.engine.mark_of(sender)
            yield pb.ExchangeResponse(voter=self.voter)
            second = await anext(messages, None)
            if second is None:
                return
            if second.WhichOneof("message") != "claim":
                raise ClusterError(Reason.INVALID_ARGUMENT, "the claim is missing")
            self.engine.admit(sender, mark_from_proto(second.claim), known)
            yield pb.ExchangeResponse(voter=self.voter, epoch=epoch)
            async for request in messages:
                message = unframer.take(request.frame)
                if message is None:
                    continue
                self.engine.arrived(sender)
                await self._until_room()
                if self._inbound.get(sender) is not stream:
                    return  # A newer stream took its place; what came on this one is old.
                size = message.ByteSize()
                self._inbox.append((sender, message, size))
                self._inbox_bytes += size
                self._wake.set()
        except FrameError as error:
            raise ClusterError(Reason.INVALID_ARGUMENT, str(error)) from error
        finally:
            self._boots.left(peer)
            if self._inbound.get(sender) is stream:
                del self._inbound[sender]

    async def _until_room(self) -> None:
        self._check()
        while self._inbox_bytes >= self._config.inbox_bytes_max:
            self._inbox_has_room.clear()
            await self._inbox_has_room.wait()
            self._check()

    def redial(self) -> None:
        """Have every connection to another voter made anew, with the certificate of then."""
        for link, _ in self._links.values():
            link.redial()

    def _keep_links(self) -> None:
        """Have a link to every voter and learner, and to who speaks to us; to nobody else."""
        wanted = self.engine.peers | self._joining | self._inbound.keys()
        for peer in list(self._links):
            if peer not in wanted:
                _, task = self._links.pop(peer)
                task.cancel()
        for peer in wanted:
            self._link(peer)

    def _link(self, peer: VoterId) -> Link:
        known = self._links.get(peer)
        if known is None:
            link = Link(
                own=self.voter,
                peer=peer,
                dial=self._dial,
                config=self._config,
                on_change=self._link_changed,
                boot=self._boot,
                claim=self._claim,
                on_refused=self._refused,
            )
            task = asyncio.create_task(link.run(), name=f"raft-link-{peer}")
            known = self._links[peer] = (link, task)
        return known[0]

    def _claim(self) -> Mark:
        return self.engine.claim()  # Of the engine of then.

    def _refused(self, peer: VoterId, error: ClusterError) -> None:
        if error.reason is Reason.MEMBER_RUNS_TWICE:
            log.error("refused by a voter", extra={"peer": peer, "error": error.message})
        if error.reason is Reason.LOG_ROLLED_BACK and self._damage is None:
            # It may have voted for, or acknowledged, what it has no longer: it says nothing more.
            log.critical("log rolled back", extra={"peer": peer, "error": error.message})
            self._damage = LogDamagedError(error.message)
            self._wake.set()

    def _check_damage(self) -> None:
        if self._damage is not None:
            raise self._damage

    def _link_changed(self, peer: VoterId, up: bool) -> None:  # noqa: FBT001
        log.info("link changed", extra={"peer": peer, "up": up})
        self.engine.connected(peer, up=up)
        self._wake.set()
