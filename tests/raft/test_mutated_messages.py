"""Messages whose bytes changed and that are messages still, past the CRC of their frames.

No engine breaks of one: it drops it, takes it for what it says, or stops on purpose, since what it
says contradicts what is committed.
"""

import os
import random
from collections import Counter
from contextlib import suppress

import pytest
from google.protobuf.message import DecodeError

from ipfs_cluster_node.adapters.raft import clock
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.errors import ConsensusViolationError
from ipfs_cluster_node.adapters.raft.journal import MEMBERSHIP, NO_OP, REGULAR
from ipfs_cluster_node.adapters.raft.proposals import BATCH_ID_BYTES, Proposal, encode_entry
from ipfs_cluster_node.adapters.raft.snapshot import SNAPSHOT_NAME, Position, store_snapshot
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from scripts.lib.sim.checks import Machine
from scripts.lib.sim.disk import MemoryDisk
from scripts.lib.sim.run import Run
from scripts.lib.sim.world import CONFIG, World
from tests.support.engines import campaign

MUTATIONS = int(os.environ.get("MUTATIONS", "100000"))
MESSAGES_PER_ENGINE = 30
MESSAGES_PER_STEP = 3
KINDS = {field.name for field in pb.RaftMessage.DESCRIPTOR.oneofs_by_name["kind"].fields}
VOTERS = [VoterId(f"n{number}.1") for number in (1, 2, 3)]


class RecordingWorld(World):
    """Keeps what was sent, by kind, and a few disks."""

    def __init__(self, seed: int) -> None:
        self.sent: dict[str, list[bytes]] = {kind: [] for kind in KINDS}
        super().__init__(seed, size=3, wild=False)

    def _send(self, sender: VoterId, peer: VoterId, message: pb.RaftMessage) -> None:
        kind = message.WhichOneof("kind")
        assert kind is not None
        self.sent[kind].append(message.SerializeToString())
        super()._send(sender, peer, message)


def recorded() -> tuple[dict[str, list[bytes]], list[dict[str, bytes]]]:
    """Messages of every kind, and disks of voters, as a cluster in trouble makes them."""
    messages: dict[str, list[bytes]] = {kind: [] for kind in KINDS}
    disks = []
    for seed in (1, 2, 4):
        world = RecordingWorld(seed)
        run = Run(world)
        run.kinds = ["kill", "isolate", "add", "remove", "transfer", "slow-link", "connection"]
        run.phase(30.0)
        for kind, sent in world.sent.items():
            messages[kind] += world.rng.sample(sent, min(len(sent), 400))
        disks += [dict(node.disk._files) for node in world.nodes.values()]
        world.close()
    return messages, disks


def mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed))
        match rng.randrange(4):
            case 0:
                changed[at] = rng.randrange(256)
            case 1:
                changed[at] ^= 1 << rng.randrange(8)
            case 2:
                changed[at:at] = rng.randbytes(rng.randint(1, 9))
            case _:
                del changed[at : at + rng.randint(1, 4)]
                changed += b"\x00" * (not changed)
    return bytes(changed)


class Victim:
    """An engine on a copy of a disk; what it sends is read by nobody."""

    def __init__(self, rng: random.Random, files: dict[str, bytes]) -> None:
        self._rng = rng
        self.seconds = 100.0
        clock.use(lambda: self.seconds)
        disk = MemoryDisk(rng)
        for name, data in files.items():
            disk.replace(name, [data])
        self.machine = Machine()
        self.engine = Engine(disk=disk, machine=self.machine, config=CONFIG)
        self.others = sorted(self.engine.voters - {self.engine.voter}) or VOTERS
        for other in self.others:
            self.engine.connected(other, up=True)

    def lead(self) -> None:
        campaign(self.engine)
        self.step()
        for other in self.others:
            self.engine.receive(
                other, pb.RaftMessage(term=self.engine.term, vote_granted=pb.VoteGranted())
            )
        for number in range(3):
            with suppress(Exception):
                self.engine.propose(Proposal(b"mine %d" % number, lambda _outcome: None))
            self.step()

    def fitting(self) -> bytes:
        """A message that fits this engine's log and term."""
        rng, log, term = self._rng, self.engine.journal, self.engine.term
        previous = rng.randint(log.first_index, log.last_index)
        kind = rng.choice(("append_entries", "append_entries", "append_result", "snapshot_chunk"))
        message = pb.RaftMessage(term=term + rng.choice((0, 0, 1)))
        if kind == "append_entries":
            append = message.append_entries
            append.previous_index, append.previous_term = previous, log.term_at(previous) or 0
            append.commit_index = previous + rng.randint(0, 3)
            for index in range(previous + 1, previous + rng.randint(1, 4)):
                append.entries.add(index=index, term=message.term, command=self._command())
        elif kind == "append_result":
            message.append_result.next_index = previous + 1
            message.append_result.success = rng.random() < 0.7
            message.append_result.reset = rng.random() < 0.3
        else:
            index = log.last_index + 10
            disk = MemoryDisk(rng)
            position = Position(index=index, term=term, voters=frozenset(VOTERS))
            store_snapshot(disk, position, self.machine.freeze()())
            whole = disk.read(SNAPSHOT_NAME) or b""
            message.snapshot_chunk.CopyFrom(
                pb.SnapshotChunk(index=index, data=whole, size_bytes=len(whole), crc=1)
            )
        return message.SerializeToString()

    def _command(self) -> bytes:
        kind = self._rng.choice((REGULAR, REGULAR, NO_OP, MEMBERSHIP))
        if kind == REGULAR:
            return kind + encode_entry(bytes(BATCH_ID_BYTES), [b"one", b"another"])
        return kind + (b"add n9.1" if kind == MEMBERSHIP else b"")

    def take(self, data: bytes) -> str | None:
        message = pb.RaftMessage.FromString(data)
        self.engine.receive(self._rng.choice(self.others), message)
        return message.WhichOneof("kind")

    def step(self) -> None:
        self.seconds += self._rng.choice((0.01, 0.02, 0.02, 0.3))
        self.engine.begin_step().write()
        for _, message in self.engine.end_step():
            message.SerializeToString()
        work = self.engine.take_snapshot()
        if work is not None:
            work()
            self.engine.snapshot_taken()


@pytest.mark.slow
def test_no_mutated_message_breaks_an_engine() -> None:
    rng = random.Random(1)
    messages, disks = recorded()
    assert [kind for kind, sent in messages.items() if not sent] == []
    taken: Counter[str | None] = Counter()
    count = stopped = 0
    kinds = sorted(KINDS)
    try:
        while count < MUTATIONS:
            victim = Victim(rng, rng.choice(disks))
            if rng.random() < 0.5 and victim.engine.voter in victim.engine.voters:
                victim.lead()
            try:
                for number in range(MESSAGES_PER_ENGINE):
                    fits = rng.random() < 0.5
                    data = victim.fitting() if fits else rng.choice(messages[rng.choice(kinds)])
                    if rng.random() < 0.9:
                        data = mutated(rng, data)
                    try:
                        taken[victim.take(data)] += 1
                    except DecodeError:
                        continue  # So far none comes.
                    count += 1
                    if number % MESSAGES_PER_STEP == 0:
                        victim.step()
            except ConsensusViolationError:
                stopped += 1
            victim.engine.close()
    finally:
        clock.use()
    print(f"{dict(taken)}; {stopped} engines stopped")
    assert set(taken) >= KINDS
