"""The replica: drives the guarded PySyncObj, the journal, the snapshots and the links.

One task does all of it, in this order: take what peers sent, tick, write and sync what the tick
appended, and only then send what the tick wants to send and answer who waits. So nothing that
depends on a record leaves before the record is durable (raft hazard H7).
"""

import asyncio
import logging
import struct
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.guarded import ConsensusViolationError, GuardedSyncObj
from ipfs_cluster_node.adapters.raft.installs import SnapshotInstalls
from ipfs_cluster_node.adapters.raft.journal import MEMBERSHIP, NO_OP, REGULAR, FileJournal
from ipfs_cluster_node.adapters.raft.link import Dial, Link, whole_messages
from ipfs_cluster_node.adapters.raft.messages import decode_message
from ipfs_cluster_node.adapters.raft.snapshot import Snapshot, load_snapshot, store_snapshot
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, VoterId, node_id_of_voter
from ipfs_cluster_node.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

JOURNAL_NAME: Final = "journal"
SNAPSHOT_NAME: Final = "snapshot"
VOTER_NAME: Final = "voter"
BATCH_ID_BYTES: Final = 16
TRAILING_BYTES_MAX: Final = 16 * 1024 * 1024

_LENGTH: Final = struct.Struct("<I")


class StateMachine(Protocol):
    """What the log drives."""

    def apply(self, index: int, command: bytes) -> object:
        """Carry out a committed command; the result goes to who proposed it on this node."""

    def freeze(self) -> Callable[[], bytes]:
        """Take the state as of now; the returned function encodes it, in a thread."""

    def restore(self, index: int, snapshot: bytes) -> None:
        """Replace the state by what `freeze` encoded."""


@dataclass(slots=True)
class _Proposal:
    command: bytes
    result: asyncio.Future[object]


def create_store(
    directory: Path, voter: VoterId, voters: Iterable[VoterId], *, first: bytes = b""
) -> None:
    """Make an empty store for a voter.

    Args:
        directory: Made if it is not there.
        voter: This node in this incarnation.
        voters: Who votes at the beginning: itself for the first master of a cluster; for a joining
            one nobody, until the leader sends it a log that says so.
        first: The first command of the cluster's log.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    empty = Snapshot(index=1, term=0, voters=frozenset(), state=b"")
    store_snapshot(directory / SNAPSHOT_NAME, empty.encode())
    journal = FileJournal(directory / JOURNAL_NAME, base_voters=empty.voters)
    # The first configuration is in the log, so that who joins later learns it from there.
    for index, each in enumerate(sorted(voters), start=journal.last_index + 1):
        journal.add(MEMBERSHIP + f"add {each}".encode(), index, 0)
    if first:
        entry = bytes(BATCH_ID_BYTES) + _LENGTH.pack(len(first)) + first
        journal.add(REGULAR + entry, journal.last_index + 1, 0)
    journal.write_and_sync(journal.take_pending())
    journal.close()
    store_snapshot(directory / VOTER_NAME, voter.encode())


def stored_voter(directory: Path) -> VoterId | None:
    """Whose store this is; None if there is none."""
    try:
        return VoterId((directory / VOTER_NAME).read_text("ascii"))
    except FileNotFoundError:
        return None


class Replica:
    """This node's copy of the log, and its vote."""

    def __init__(
        self, *, directory: Path, machine: StateMachine, dial: Dial, config: RaftConfig
    ) -> None:
        """Open the store and restore the state machine.

        Args:
            directory: Made by `create_store`.
            machine: Restored here if there is a snapshot, then driven by `run`.
            dial: Opens a channel to a master; the replica closes it.
            config: Times and bounds.

        Raises:
            ClusterError: HOME_DAMAGED.
        """
        voter, snapshot = stored_voter(directory), load_snapshot(directory / SNAPSHOT_NAME)
        if voter is None or snapshot is None:
            raise ClusterError(
                Reason.HOME_DAMAGED,
                f"the log in {directory} is lost; remove this node and join it anew",
            )
        self.voter = voter
        self._machine, self._dial, self._config = machine, dial, config
        self._snapshot_path = directory / SNAPSHOT_NAME
        if snapshot.state:
            machine.restore(snapshot.index, snapshot.state)
        self._journal = FileJournal(
            directory / JOURNAL_NAME,
            base=(NO_OP, snapshot.index, snapshot.term),
            base_voters=snapshot.voters,
        )
        self._raft = GuardedSyncObj(
            voter=voter,
            journal=self._journal,
            config=config,
            apply_entry=self._apply_entry,
            on_snapshot_needed=self._offer_snapshot,
        )
        self._raft.skip_to(snapshot.index)
        self._raft.out.on_members = self._members_changed
        self._installs = SnapshotInstalls(
            path=self._snapshot_path, send=self._send, part_path=directory / "snapshot.part"
        )
        self._snapshot_index = snapshot.index
        self._snapshot_log_bytes = self._journal.entry_bytes
        self._snapshotting: asyncio.Task[None] | None = None
        self._inbox: asyncio.Queue[tuple[VoterId, pb.RaftMessage]] = asyncio.Queue(
            config.inbox_messages_max
        )
        self._inbound: dict[VoterId, object] = {}
        self._waiting: deque[_Proposal] = deque()
        self._in_flight: tuple[bytes, list[_Proposal]] | None = None
        self._in_flight_term = 0
        self._batch_count = 0
        self._done: list[tuple[_Proposal, object]] = []
        self._links: dict[VoterId, tuple[Link, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._was_leader = False
        self._changing = asyncio.Lock()
        self.failed: ClusterError | None = None
        self.on_leadership: Callable[[bool, int], None] = lambda _leads, _term: None
        """Called in the loop when this node begins or ceases to lead."""

    @property
    def is_leader(self) -> bool:
        """Whether this node leads, as far as it knows, and has applied all before its term."""
        return self.failed is None and self._raft.serves

    @property
    def leader(self) -> NodeId | None:
        """The leader, as far as this node knows."""
        voter = self._raft.leader_voter()
        return None if voter is None else node_id_of_voter(voter)

    @property
    def term(self) -> int:
        """The current term."""
        return int(self._raft._getTerm())

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        return self._raft.commit_index

    @property
    def applied_index(self) -> int:
        """Highest index applied."""
        return self._raft.applied_index

    @property
    def voters(self) -> frozenset[VoterId]:
        """Who votes, by the newest configuration in the log."""
        return self._journal.voters()

    async def propose(self, command: bytes) -> object:
        """Commit a command and return what the state machine made of it here.

        Proposals that wait are committed together: one log entry, one sync, one round.

        Raises:
            ClusterError: NOT_LEADER, NO_LEADER, OVERLOADED, PAYLOAD_TOO_LARGE and
                LOG_STORAGE_FAILED if it certainly was not committed; UNKNOWN_OUTCOME otherwise.
        """
        self._check_leads()
        if len(command) > self._config.command_bytes_max:
            raise ClusterError(
                Reason.PAYLOAD_TOO_LARGE,
                f"a command has at most {self._config.command_bytes_max} bytes; send less at once",
            )
        if len(self._waiting) >= self._config.proposals_waiting_max:
            raise ClusterError(Reason.OVERLOADED, "too many writes wait; try again later")
        proposal = _Proposal(command, asyncio.get_running_loop().create_future())
        self._waiting.append(proposal)
        self._wake.set()
        return await proposal.result

    async def add_voter(self, voter: VoterId) -> None:
        """Let a master vote; returns once that is committed. Does nothing if it votes already.

        Raises:
            ClusterError: MEMBERSHIP_CHANGE_IN_PROGRESS, PEER_UNREACHABLE, and those of `propose`.
        """
        await self._change("add", voter)

    async def remove_voter(self, voter: VoterId) -> None:
        """Let a master vote no more; returns once that is committed.

        Raises:
            ClusterError: QUORUM_AT_RISK for this node or if the others would have no majority
                connected; MEMBERSHIP_CHANGE_IN_PROGRESS, and those of `propose`.
        """
        await self._change("rem", voter)

    async def _change(self, operation: str, voter: VoterId) -> None:
        async with self._changing:  # One at a time (H12).
            self._check_leads()
            if (voter in self.voters) == (operation == "add"):
                return
            if not self._raft.can_change_voters:
                raise ClusterError(
                    Reason.MEMBERSHIP_CHANGE_IN_PROGRESS,
                    "another change of the masters is not committed yet; try again later",
                )
            if operation == "add":
                await self._reach(voter)
            else:
                self._check_removal(voter)
            self._raft._applyCommand(f"{operation} {voter}".encode(), None, MEMBERSHIP[0])
            self._wake.set()
            # Committed with the next command, whose result tells that it was.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.connect_timeout.total_seconds()):
                    await self.propose(b"")
            if not self._raft.can_change_voters or (voter in self.voters) != (operation == "add"):
                raise ClusterError(
                    Reason.UNKNOWN_OUTCOME, "the change is not committed yet; try again"
                )

    async def _reach(self, voter: VoterId) -> None:
        link = self._link(voter)
        try:
            async with asyncio.timeout(self._config.connect_timeout.total_seconds()):
                await link.up.wait()
        except TimeoutError:
            self._members_changed()
            raise ClusterError(
                Reason.PEER_UNREACHABLE,
                f"{node_id_of_voter(voter)} can't be dialled back; check its --advertise address",
            ) from None

    def _check_removal(self, voter: VoterId) -> None:
        left = self.voters - {voter}
        connected = 1 + sum(1 for v in left if v in self._links and self._links[v][0].up.is_set())
        if voter == self.voter or not left or 2 * connected <= len(left):
            raise ClusterError(
                Reason.QUORUM_AT_RISK,
                f"without it {connected} of {len(left)} masters would be connected, or it leads; "
                "start the others, or let another lead first",
            )

    def _check_leads(self) -> None:
        if self.failed is not None:
            raise self.failed
        if self._raft._isLeader():
            return
        if self.leader is None or self.leader == node_id_of_voter(self.voter):
            raise ClusterError(Reason.NO_LEADER, "no master leads now; try again in a moment")
        raise ClusterError(
            Reason.NOT_LEADER,
            f"this node does not lead; ask {self.leader}",
            metadata={"leader_node_id": self.leader},
        )

    # The loop.

    async def run(self) -> None:
        """Take part in consensus until cancelled.

        Raises:
            ClusterError: LOG_STORAGE_FAILED, once the disk fails: nothing is served any more.
        """
        self._members_changed()
        try:
            while True:
                await self._step()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._config.tick_interval.total_seconds()):
                        await self._wake.wait()
                self._wake.clear()
        except (OSError, ConsensusViolationError, MemoryError) as error:
            log.critical("log storage failed", extra={"error": repr(error)})
            self.failed = ClusterError(
                Reason.LOG_STORAGE_FAILED,
                f"this node's log can't be written ({error}); mend the disk and start it again",
            )
            raise self.failed from error
        finally:
            await self._stop()

    async def _step(self) -> None:
        while not self._inbox.empty():
            sender, message = self._inbox.get_nowait()
            await self._take(sender, message)
        self._raft.tick()
        if self._next_batch():
            self._raft.tick()
        if self._journal.dirty:
            records = self._journal.take_pending()
            await asyncio.to_thread(self._journal.write_and_sync, records)
            if len(self.voters) == 1 and self._in_flight is not None:
                self._wake.set()  # Nobody will answer: what was synced just now is committed.
        outbox, self._raft.out.outbox = self._raft.out.outbox, []
        for peer, raft_message in outbox:
            self._send(peer, raft_message)
        for proposal, result in self._done:
            if not proposal.result.done():
                if isinstance(result, ClusterError):
                    proposal.result.set_exception(result)
                else:
                    proposal.result.set_result(result)
        if self._done:
            self._wake.set()
        self._done.clear()
        self._watch_leadership()
        self._consider_snapshot()

    async def _take(self, sender: VoterId, message: pb.RaftMessage) -> None:
        kind = message.WhichOneof("kind")
        if kind == "snapshot_chunk":
            if message.term >= self.term:
                snapshot = self._installs.take_chunk(sender, message)
                if snapshot is not None and snapshot.index > self.applied_index:
                    await self._install(sender, snapshot)
        elif kind == "snapshot_result":
            if message.term == self.term and self._raft._isLeader():
                installed = self._installs.take_result(sender, message)
                if installed is not None:
                    self._raft.installed(sender, installed)
        else:
            decoded = decode_message(message)
            if decoded is None:
                log.warning("malformed raft message dropped", extra={"sender": sender})
            else:
                self._raft.receive(sender, decoded)

    def _next_batch(self) -> bool:
        if self._in_flight is not None or not self._waiting or not self._raft._isLeader():
            return False
        self._batch_count += 1
        identity = _batch_identity(self.voter, self.term, self._batch_count)
        batch: list[_Proposal] = []
        entry = bytearray(identity)
        while self._waiting:
            command = self._waiting[0].command
            if batch and len(entry) + len(command) > self._config.batch_bytes_max:
                break
            proposal = self._waiting.popleft()
            if proposal.result.done():
                continue  # Its caller went away before it was proposed.
            entry += _LENGTH.pack(len(command)) + command
            batch.append(proposal)
        if not batch:
            return False
        self._in_flight = (identity, batch)
        self._in_flight_term = self.term
        self._raft._applyCommand(bytes(entry), None, REGULAR[0])
        return True

    def _apply_entry(self, index: int, entry: bytes) -> None:
        results: list[object] = []
        offset = BATCH_ID_BYTES
        while offset < len(entry):
            (length,) = _LENGTH.unpack_from(entry, offset)
            offset += _LENGTH.size
            command = entry[offset : offset + length]
            offset += length
            results.append(self._apply_command(index, command))
        if self._in_flight is not None and self._in_flight[0] == entry[:BATCH_ID_BYTES]:
            self._done += zip(self._in_flight[1], results, strict=True)
            self._in_flight = None

    def _apply_command(self, index: int, command: bytes) -> object:
        if not command:
            return None
        try:
            return self._machine.apply(index, command)
        except Exception:
            # Raised again it would be applied for ever, and stop every replica (H11).
            log.exception("apply raised", extra={"index": index})
            return ClusterError(Reason.INTERNAL, "the command could not be applied; see the log")

    def _watch_leadership(self) -> None:
        if not self._raft._isLeader() or self._in_flight_term != self.term:
            # Also where this node led without serving yet: what it proposed may be lost.
            self._fail_proposals()
        leads = self.is_leader
        if leads == self._was_leader:
            return
        self._was_leader = leads
        log.info("leadership changed", extra={"leads": leads, "term": self.term})
        self._installs.forget_offers()
        self.on_leadership(leads, self.term)

    def _fail_proposals(self) -> None:
        if self._in_flight is None and (not self._waiting or self._raft._isLeader()):
            return
        if self._in_flight is not None:
            unknown = ClusterError(
                Reason.UNKNOWN_OUTCOME,
                "the leader changed while the write was under way; repeat it with the same "
                "request id",
            )
            self._done += [(proposal, unknown) for proposal in self._in_flight[1]]
            self._in_flight = None
        while self._waiting and (self.failed is not None or not self._raft._isLeader()):
            lost = ClusterError(Reason.NO_LEADER, "this node leads no more; try again in a moment")
            self._done.append((self._waiting.popleft(), lost))
        self._wake.set()

    async def _stop(self) -> None:
        if self.failed is None:
            self.failed = ClusterError(Reason.SHUTTING_DOWN, "this node stops; ask another one")
        self._fail_proposals()
        for proposal, result in self._done:
            if not proposal.result.done() and isinstance(result, ClusterError):
                proposal.result.set_exception(result)
        tasks = [task for _, task in self._links.values()]
        if self._snapshotting is not None:
            tasks.append(self._snapshotting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._raft.destroy()
        self._journal.close()

    # Snapshots.

    def _consider_snapshot(self) -> None:
        grown = self.applied_index - self._snapshot_index >= self._config.snapshot_entries or (
            self._journal.entry_bytes - self._snapshot_log_bytes > self._config.snapshot_log_bytes
            and self.applied_index > self._snapshot_index
        )
        if self._snapshotting is not None and self._snapshotting.done():
            task, self._snapshotting = self._snapshotting, None
            task.result()  # A failed write is a failed disk.
            self._trim()
        elif grown and self._snapshotting is None:
            self._snapshotting = asyncio.create_task(self._snapshot(), name="raft-snapshot")

    async def _snapshot(self) -> None:
        index = self.applied_index
        term = self._journal.term_at(index)
        voters = self._journal.voters(up_to=index)
        encode = self._machine.freeze()

        def write() -> None:
            snapshot = Snapshot(index=index, term=term or 0, voters=voters, state=encode())
            store_snapshot(self._snapshot_path, snapshot.encode())

        await asyncio.to_thread(write)
        self._snapshot_index = index
        log.info("snapshot made", extra={"index": index})

    def _trim(self) -> None:
        # Only what a durable snapshot covers goes, and a little of that stays (H18).
        index = max(self._snapshot_index - self._config.trailing_entries, self._journal.first_index)
        kept_bytes = 0
        for command, entry_index, _ in reversed(self._journal[:]):
            kept_bytes += len(command)
            if kept_bytes > TRAILING_BYTES_MAX and entry_index <= self._snapshot_index:
                index = max(index, entry_index)
                break
        self._journal.trim(index, self._journal.voters(up_to=index))
        self._snapshot_log_bytes = self._journal.entry_bytes

    async def _install(self, sender: VoterId, snapshot: Snapshot) -> None:
        if self._snapshotting is not None:
            await asyncio.gather(self._snapshotting, return_exceptions=True)
            self._snapshotting = None
        await asyncio.to_thread(store_snapshot, self._snapshot_path, snapshot.encode())
        self._journal.rebase(snapshot.index, snapshot.term, snapshot.voters)
        if snapshot.state:
            self._machine.restore(snapshot.index, snapshot.state)
        self._raft.skip_to(snapshot.index)
        self._raft.use_voters(self._journal.voters())
        self._snapshot_index = snapshot.index
        self._snapshot_log_bytes = self._journal.entry_bytes
        self._members_changed()
        self._send(sender, self._installs.installed_message(snapshot.index, self.term))
        log.info("snapshot installed", extra={"index": snapshot.index, "sender": sender})

    # Peers.

    async def exchange(
        self, peer: NodeId, requests: AsyncIterator[pb.ExchangeRequest]
    ) -> AsyncIterator[pb.ExchangeResponse]:
        """Serve one stream of a peer whose node id TLS has proved.

        Raises:
            ClusterError: CALLER_NOT_ALLOWED for another node's name, INVALID_ARGUMENT for bytes
                that are no message, SHUTTING_DOWN.
        """
        first = await anext(aiter(requests), None)
        sender = VoterId(first.hello.voter) if first is not None else VoterId("")
        if node_id_of_voter(sender) != peer:
            raise ClusterError(Reason.CALLER_NOT_ALLOWED, "a voter speaks for itself only")
        stream = self._inbound[sender] = object()
        yield pb.ExchangeResponse(voter=self.voter)
        try:
            async for message in whole_messages(requests):
                if self.failed is not None:
                    raise self.failed
                if self._inbound.get(sender) is not stream:
                    return  # A newer stream took its place; what came on this one is old.
                await self._inbox.put((sender, message))
                self._wake.set()
        except ValueError as error:
            raise ClusterError(Reason.INVALID_ARGUMENT, str(error)) from error

    def _send(self, peer: VoterId, message: pb.RaftMessage) -> None:
        if message.term == 0:
            message.term = self.term
        self._link(peer).send(message)

    def _link(self, peer: VoterId) -> Link:
        known = self._links.get(peer)
        if known is None:
            link = Link(
                own=self.voter,
                peer=peer,
                dial=self._dial,
                config=self._config,
                on_change=self._link_changed,
            )
            task = asyncio.create_task(link.run(), name=f"raft-link-{peer}")
            known = self._links[peer] = (link, task)
        return known[0]

    def _offer_snapshot(self, peer: VoterId) -> None:
        self._installs.offer(peer)

    def _link_changed(self, peer: VoterId, up: bool) -> None:  # noqa: FBT001
        self._raft.connected(peer, up=up)
        self._wake.set()

    def _members_changed(self) -> None:
        wanted = self._raft.others
        leader = self._raft.leader_voter()
        for peer in list(self._links):
            if peer not in wanted and peer != leader:
                _, task = self._links.pop(peer)
                task.cancel()
        for peer in wanted:
            self._link(peer)


def _batch_identity(voter: VoterId, term: int, count: int) -> bytes:
    return struct.pack("<IIQ", zlib.crc32(voter.encode()), term & 0xFFFFFFFF, count)
