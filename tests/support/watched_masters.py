"""Masters that apply one log, each in its own time, and whose state is watched."""

from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ipfs_cluster_node.access.context import Caller, CallerClass
from ipfs_cluster_node.access.turns import Turn, Turns
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.raft.snapshot import Position
from ipfs_cluster_node.client.watched_state import WatchedState
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.cluster.state_watches import (
    StateWatches,
)
from ipfs_cluster_node.codec.commands import encode_command
from ipfs_cluster_node.codec.snapshot import encode_snapshot
from ipfs_cluster_node.codec.state_watch import WatchReader, WatchWriter
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.authorization import ItemArgs, alternatives
from ipfs_cluster_node.core.commands import LogCommand
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did, TaskId, VoterId
from ipfs_cluster_node.core.model import (
    Liveness,
    Principal,
    Role,
    TaskSpec,
)
from ipfs_cluster_node.core.schemas import STATE_TABLES as NAMES
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.state_events import (
    Bookmark,
    Reset,
    ResetCause,
    StateEvent,
    WatchedTable,
)
from ipfs_cluster_node.core.ucan.commands import Command
from tests.support.virtual_time import loop_clock

CALLER = Did("did:key:caller")


@dataclass
class Rights:
    """What a caller may read: everything, or what `allowed` holds for."""

    rights: frozenset[object] | None = None
    allowed: Any = None
    caller: Caller = field(default_factory=lambda: Caller(CALLER, CallerClass.CLIENT))
    delegation_cids: tuple[str, ...] = ()

    def allows(self, args: ItemArgs) -> bool:
        return self.allowed is None or any(map(self.allowed, alternatives(args)))

    def allows_under(self, command: Command, item: ItemArgs) -> bool:
        return self.allows(item)

    async def renew(self) -> None:
        """Nothing changes."""


class Master:
    """One master: its log is what was applied here; `terms` says which term an entry has."""

    failed = None

    def __init__(self, terms: Any = lambda _index: 1) -> None:
        self.machine = ReplicatedStateMachine()
        self.voters: frozenset[VoterId] = frozenset()
        self.applied_index = 0
        self.first_index = 0
        self._terms = terms
        self.leads_for_sure = False
        self.age_ms = 0
        self.replica: Any = self
        self.leader = None
        self.watches = StateWatches(self)  # type: ignore[arg-type]
        self.watches.changes.follow(self.machine, self)  # type: ignore[arg-type]

    # What a replica says.

    def position(self) -> Position:
        index = self.applied_index
        return Position(index=index, term=self._terms(index), voters=self.voters)

    def term_at(self, index: int) -> int | None:
        return self._terms(index) if self.first_index <= index <= self.applied_index else None

    # What consensus says.

    def state(self) -> ClusterState:
        return self.machine.state

    def not_leader(self) -> ClusterError:
        return ClusterError(Reason.NOT_LEADER, "ask another one")

    # What happens to it.

    def apply(self, index: int, command: LogCommand) -> None:
        self.applied_index = index  # As a replica does: its term is known when the entry ends.
        self.machine.apply(index, encode_command(command))
        self.machine.end_entry(index)

    def install(self, other: "Master") -> None:
        """Take the state of another master."""
        parts = list(encode_snapshot(other.machine.state.data()))
        self.first_index = other.applied_index
        self.applied_index = other.applied_index
        self.machine.load(other.applied_index, parts)()

    def compact(self) -> None:
        """Forget the entries of the log, not what they changed."""
        self.first_index = self.applied_index

    async def watch(
        self,
        tables: Iterable[WatchedTable],
        token: bytes = b"",
        rights: Any = None,
        interval: float = 0.2,
    ) -> Any:
        """The events of a watch, by way of their messages."""
        watched = list(tables)
        turn = Turn(Turns(loop_clock().monotonic), "test")
        writer, reader = WatchWriter(watched), WatchReader()
        for message in writer.schemas():
            reader.decode(message)
        events = self.watches.watch(watched, token, interval, rights or Rights(), turn)
        try:
            async for event in events:
                decoded: StateEvent | None = reader.decode(writer.encode(event))
                assert decoded is not None
                yield decoded
        finally:
            await events.aclose()


ALL = [WatchedTable(name) for name in NAMES]
EVERYTHING = Rights()
SOME = Rights(
    frozenset({"some"}),
    lambda args: (
        args["namespace"] in ("default", "team-a")
        or args["role"] == "worker"
        or (args["table"] == "content" and hash(args["cid"]) % 2)
    ),
)


async def first_batch(events: Any) -> list[StateEvent]:
    """The events up to the first bookmark; closes the watch."""
    batch: list[StateEvent] = []
    async with aclosing(events):
        async for event in events:
            batch.append(event)
            if isinstance(event, Bookmark):
                return batch
    raise AssertionError("the watch ended")


def with_settings(master: Master, *keys: str) -> None:
    """Set some keys, each in an entry of its own."""
    for key in keys:
        body = c.ProposeConfig(values={f"user.{key}": "1"})
        master.apply(master.applied_index + 1, c.LogCommand(at_ms=1, body=body))


def do(master: Master, *bodies: Any) -> None:
    """Carry out commands, each in an entry of its own."""
    for body in bodies:
        master.apply(master.applied_index + 1, c.LogCommand(at_ms=1, body=body, caller=CALLER))


WORKER = Identity.create()


def in_cluster(cluster_id: str = "c") -> Master:
    master = Master()
    worker = Principal(
        did=WORKER.did,
        name="w",
        role=Role.WORKER,
        liveness=Liveness.ALIVE,
        task_types=("echo",),
        enrolled_at_ms=1,
        liveness_at_ms=1,
    )
    body = c.BootstrapCluster(
        cluster_id=cluster_id, cluster_name="c", cluster_did=CALLER, principals=(worker,)
    )
    master.apply(1, c.LogCommand(at_ms=1, body=body))
    with_settings(master, "a")
    return master


CONFIG = [WatchedTable("config")]


async def token_of(master: Master, rights: Rights = EVERYTHING) -> bytes:
    [*_, mark] = await first_batch(master.watch(CONFIG, rights=rights))
    assert isinstance(mark, Bookmark)
    return mark.resume_token


async def cause_of(events: Any) -> ResetCause | None:
    first, *_ = await first_batch(events)
    return first.cause if isinstance(first, Reset) else None


async def until_mark(events: Any) -> Any:
    async for event in events:
        yield event
        if isinstance(event, Bookmark):
            return


async def follow(events: Any, state: WatchedState) -> None:
    async for event in events:
        state.apply(event)


def submit(*names: str, **spec: Any) -> c.SubmitTasks:
    specs = tuple(TaskSpec(task_type="echo", **spec) for _ in names)
    return c.SubmitTasks(task_ids=tuple(map(TaskId, names)), specs=specs, fingerprint=b"f" * 32)
