"""The engine's steps, driven by hand."""

import random
from functools import partial

import pytest

from ipfs_cluster_node.adapters.raft.applying import apply_entry
from ipfs_cluster_node.adapters.raft.clock import use
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.journal import MEMBERSHIP, NO_OP, REGULAR
from ipfs_cluster_node.adapters.raft.messages import decode_message
from ipfs_cluster_node.adapters.raft.proposals import (
    BATCH_ID_BYTES,
    Proposal,
    Proposals,
    encode_entry,
)
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from scripts.lib.sim.disk import MemoryDisk
from tests.support.replicas import ListMachine

A, B = VoterId("a.1"), VoterId("b.1")
BATCH = REGULAR + encode_entry(bytes(BATCH_ID_BYTES), [b"one", b"two"])
MALFORMED = [
    b"",
    b"\x7fwhat",
    BATCH[:-1],
    BATCH[: 1 + BATCH_ID_BYTES + 2],
    BATCH + b"\x00",
    REGULAR + b"short",
    MEMBERSHIP + b"add",
    MEMBERSHIP + b"turn b.1",
    MEMBERSHIP + b"add \xff",
]


def follower() -> tuple[Engine, ListMachine]:
    disk = MemoryDisk(random.Random(0))
    create_store(disk, B, [A, B])
    machine = ListMachine()
    return Engine(disk=disk, machine=machine, config=RaftConfig()), machine


def append(index: int, *commands: bytes, commit: int) -> pb.RaftMessage:
    message = pb.RaftMessage(term=1)
    entries = message.append_entries
    entries.previous_index, entries.previous_term = index - 1, 0 if index <= 4 else 1
    entries.commit_index = commit
    for position, command in enumerate(commands):
        entries.entries.add(index=index + position, term=1, command=command)
    return message


def test_a_follower_writes_before_it_applies() -> None:
    """The leader waits for its write, and does not wait for followers to apply."""
    engine, machine = follower()
    first = engine.journal.last_index + 1
    engine.receive(A, append(first, BATCH, commit=first))
    step = engine.begin_step()
    assert step.pending is not None
    assert machine.commands == []
    step.write()
    answers = [m for _, m in engine.end_step() if m.WhichOneof("kind") == "append_result"]
    assert answers
    assert engine.has_work
    engine.begin_step().write()
    assert machine.commands == ["one", "two"]


def test_what_was_committed_is_applied_with_the_next_beat() -> None:
    """No call waits for a follower to apply; a tick costs as much as the message itself."""
    engine, machine = follower()
    moment = 1000.0
    use(lambda: moment)
    try:
        first = engine.journal.last_index + 1
        step(engine, append(first, BATCH, commit=first - 1))
        step(engine)
        assert engine.commit_index == first - 1
        step(engine, append(first + 1, commit=first))
        assert engine.commit_index == first
        assert machine.commands == []
        assert not engine.has_work
        moment += RaftConfig().tick_interval.total_seconds()
        step(engine)
        assert machine.commands == ["one", "two"]
    finally:
        use()


def test_an_election_does_not_wait_for_the_beat() -> None:
    moment = 1000.0
    use(lambda: moment)
    try:
        engine, _ = follower()
        engine.connected(A, up=True)
        step(engine)
        moment += 10.0
        step(engine)
        moment += 0.0001
        granted = pb.RaftMessage(pre_vote_granted=pb.PreVoteGranted(round=1))
        assert [m.WhichOneof("kind") for m in step(engine, granted)] == ["request_vote"]
    finally:
        use()


def step(engine: Engine, *messages: pb.RaftMessage) -> list[pb.RaftMessage]:
    """One step, with messages of A; returns what it sent."""
    for message in messages:
        engine.receive(A, message)
    taken = engine.begin_step()
    taken.write()
    return [message for _, message in (*taken.appends, *engine.end_step())]


@pytest.mark.parametrize("command", MALFORMED)
def test_h11_a_malformed_entry_is_refused_before_the_log_takes_it(command: bytes) -> None:
    engine, _ = follower()
    last = engine.journal.last_index
    message = append(last + 1, BATCH, command, commit=last)
    assert decode_message(message) is None
    engine.receive(A, message)
    assert engine.journal.last_index == last
    for right in (BATCH, NO_OP, MEMBERSHIP + b"add c.1"):
        assert decode_message(append(last + 1, right, commit=last)) is not None


def test_h11_a_malformed_entry_in_the_log_is_skipped_by_every_replica() -> None:
    engine, machine = follower()
    # As an older version, or a faulty master, might have left it.
    engine.applier.apply(7, BATCH[1:-1])
    engine.applier.apply(8, BATCH[1:])
    assert machine.commands == ["one", "two"]


def test_an_empty_command_changes_nothing_and_is_answered() -> None:
    """By it a change of the voters hears that it is committed."""
    machine = ListMachine()
    entry = encode_entry(bytes(BATCH_ID_BYTES), [b"one", b"", b"two"])
    assert apply_entry(machine, 5, entry) == [(1, "one"), None, (2, "two")]
    assert machine.commands == ["one", "two"]


def test_a_batch_is_bounded_by_its_commands_and_its_bytes() -> None:
    """It is applied at once, and every waiting caller continues at once."""
    proposals = Proposals(A, waiting_max=100, batch_bytes_max=1000, batch_commands_max=4)
    for size in (1, 1, 1, 1, 1, 900, 900, 5000, 1):
        proposals.put(Proposal(b"x" * size, lambda _outcome: None))
    counts = []
    while (entry := proposals.next_entry(1)) is not None:
        counts.append(proposals.batch_count_last)
        proposals.take_results(entry, [None] * counts[-1])
    assert counts == [4, 2, 1, 1, 1]


def test_who_gives_up_tells_nobody_of_success() -> None:
    """What was done may depend on a write that has not ended."""
    outcomes: dict[str, object] = {}

    def proposal(name: str) -> Proposal:
        return Proposal(name.encode(), partial(outcomes.__setitem__, name))

    proposals = Proposals(A, waiting_max=10, batch_bytes_max=1000, batch_commands_max=4)
    proposals.put(proposal("done"))
    entry = proposals.next_entry(1)
    assert entry is not None
    proposals.take_results(entry, ["result"])
    proposals.put(proposal("under way"))
    proposals.next_entry(1)
    proposals.put(proposal("waiting"))
    proposals.give_up()
    for each, outcome in proposals.take_done():
        each.on_done(outcome)
    reasons = {n: e.reason for n, e in outcomes.items() if isinstance(e, ClusterError)}
    assert reasons == {
        "done": Reason.UNKNOWN_OUTCOME,
        "under way": Reason.UNKNOWN_OUTCOME,
        "waiting": Reason.NO_LEADER,
    }
