"""The replica: one task that drives an engine, step by step, also through outages of its disk."""

import asyncio
import logging
import math
from contextlib import suppress
from pathlib import Path
from typing import Final

from ipfs_cluster_node.adapters.raft.applying import apply_entries
from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk, Disk
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.errors import ConsensusViolationError
from ipfs_cluster_node.adapters.raft.link import Dial
from ipfs_cluster_node.adapters.raft.outages import (
    PROBE_BYTES,
    PROBE_NAME,
    RETRY_SECONDS_MIN,
    Outage,
    first_pause,
    is_temporary,
    next_pause,
)
from ipfs_cluster_node.adapters.raft.replica_voters import ReplicaVoters
from ipfs_cluster_node.adapters.raft.state_machine import StateMachine
from ipfs_cluster_node.adapters.raft.witness import open_notes
from ipfs_cluster_node.adapters.raft.write_latency import WriteLatency
from ipfs_cluster_node.adapters.raft.writer import Writer
from ipfs_cluster_node.core.boots import UNKNOWN, Boots

log = logging.getLogger(__name__)

CROWD: Final = 2
"""This many proposals, waiting or in the last batch, suggest that more are on their way."""
GATHER_SECONDS_MAX: Final = 0.025
"""Longest time that a batch waits for more proposals."""
GATHER_QUIET_SECONDS: Final = 0.001
"""A batch is proposed once none has come for this long: longer than gRPC takes between calls."""


class Replica(ReplicaVoters):
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
        """Open the store in `directory`, and restore the state machine from it.

        `dial` opens a channel to a master; the replica closes it. `notes` is the directory of the
        note of how far voters have come, not within `directory`. `boot` tells this process from
        others with the same identity, and `boots` knows those that speak for other nodes.

        Raises:
            LogDamagedError: The store is not whole, or not there, or an old copy of it.
        """
        self._directory, self._machine, self._notes = directory, machine, notes
        self._config = config
        engine = self._open(DirectoryDisk(directory))
        super().__init__(engine, config, dial=dial, boot=boot, boots=boots or Boots())
        self._snapshotting: asyncio.Task[None] | None = None
        self._latency = WriteLatency()
        self.writer: Writer | None = None
        """The one that wrote last; while a disk hangs it goes on after `run` has ended."""
        self._beat_due = True

    @property
    def slow_write_seconds(self) -> float:
        """Duration of the slowest recent write if the disk is slow now; else 0."""
        return self._latency.slowest(now())

    async def run(self) -> None:
        """Take part in consensus until cancelled; while the disk is full, wait for it.

        Raises:
            ClusterError: LOG_STORAGE_FAILED if the disk has failed for good; RELEASE_TOO_OLD if a
                newer release has written an entry that this one does not know.
            LogDamagedError: After an outage, something that this node had acknowledged is missing;
                or another voter knows that this log is an old copy.
        """
        pause, steady_since = RETRY_SECONDS_MIN, -math.inf
        try:
            while True:
                error = await self._take_part()
                if not is_temporary(error):
                    assert self.outage is not None
                    raise self.outage.error() from error
                pause = first_pause(pause, steady_seconds=now() - steady_since)
                pause = await self._recover(pause)
                steady_since = now()
        finally:
            self._end_streams()

    def close(self) -> None:
        """Close the log, if `run` was never called."""
        self.engine.close()

    async def _take_part(self) -> BaseException:
        """Run until the disk fails; returns the failure."""
        self.writer = writer = Writer()
        beat = asyncio.create_task(self._beat(), name="raft-beat")
        try:
            while True:
                if self._beat_due:
                    self._beat_due = False
                    self._keep_links()
                await self._gather()
                self._check_damage()  # Before anything else is sent.
                await self._step(writer)
                if self._inbox or self.engine.has_work:
                    await asyncio.sleep(0)
                    continue
                await self._wake.wait()
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
        """Wait until the log can be written again and open it; returns the last pause."""
        assert self.outage is not None
        while True:
            await asyncio.sleep(pause)
            try:
                self.engine = await self._reopen()
                break
            except OSError as error:
                self.outage = Outage(error, since=self.outage.since)
                log.warning("log can't be written yet", extra={"error": repr(error)})
                if not is_temporary(error):
                    raise self.outage.error() from error
            pause = next_pause(pause)
        seconds = now() - self.outage.since
        log.warning("log is written again", extra={"after_seconds": round(seconds, 1)})
        self._inbox.clear()
        self._inbox_bytes = 0
        self._latency = WriteLatency()
        self.outage = self.snapshot_outage = None
        return pause

    async def _reopen(self) -> Engine:
        opening = asyncio.create_task(asyncio.to_thread(self._reopened), name="raft-reopen")
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # Its thread can't be stopped, and the log may be opened again right after this one.
            await asyncio.wait((opening,))
            if opening.exception() is None:
                opening.result().close()
            raise

    def _reopened(self) -> Engine:
        """Open the store as at a start, after writing to its disk; blocks."""
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
        """Apply what may be uncommitted to a copy of the state machine; raises RELEASE_TOO_OLD."""
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
            seconds = self._latency.under_way(now())
            if seconds > self._config.fallback_timeout.total_seconds():
                self.engine.disk_hangs(seconds)
            await asyncio.sleep(self._config.tick_interval.total_seconds())

    async def _gather(self) -> None:
        """Wait for the calls of many clients to join one batch: a round costs as much as several.

        A client that calls alone does not wait.
        """
        proposals = self.engine.proposals
        if not proposals.waits or proposals.under_way:
            return
        if max(proposals.waiting_count, proposals.batch_count_last) < CROWD:
            return
        loop = asyncio.get_running_loop()
        gathered: asyncio.Future[None] = loop.create_future()
        began = last_at = now()
        count = proposals.waiting_count

        def look() -> None:
            nonlocal last_at, count
            if gathered.done():  # The replica stops.
                return
            moment = now()
            if proposals.waiting_count != count:
                count, last_at = proposals.waiting_count, moment
            if moment < began + GATHER_SECONDS_MAX and moment < last_at + GATHER_QUIET_SECONDS:
                loop.call_soon(look)  # Many times a batch: cheaper than to wake this each time.
            else:
                gathered.set_result(None)

        loop.call_soon(look)
        await gathered

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
            elif is_temporary(error) and self.engine.snapshot_failed():
                log.error("no room for a snapshot", extra={"error": repr(error)})
                self.snapshot_outage = Outage(error, since=now())
            else:
                raise error  # The disk has failed.

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
