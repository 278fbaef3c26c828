"""Records what this release writes: a journal of every command, and a snapshot of their state.

`python -m tests.recorded.recorder` makes the recording of this version, which must not be there
yet: what a release wrote is never written again.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node import __version__
from ipfs_cluster_node.adapters.raft.applying import apply_entries, apply_entry
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.journal import MEMBERSHIP, NO_OP, REGULAR, SegmentedJournal
from ipfs_cluster_node.adapters.raft.proposals import BATCH_ID_BYTES, encode_entry
from ipfs_cluster_node.adapters.raft.snapshot import Position, store_snapshot
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.codec.commands import encode_command
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.ids import VoterId
from tests.recorded.history import commands
from tests.recorded.plain import plain

RECORDINGS: Final = Path(__file__).parent
JOURNAL: Final = "journal"
"""A store whose journal holds the whole history."""
SNAPSHOT: Final = "snapshot"
"""The same store, when a snapshot had taken the place of most of its journal."""
FACTS: Final = "facts.json"
A, B, C = (VoterId(f"{letter}.1") for letter in "abc")
BATCH: Final = 3
"""Commands in one entry; the last may hold fewer."""
SNAPSHOT_SHARE: Final = 0.8
"""Of the entries, which the snapshot covers."""
SEGMENT_BYTES_MAX: Final = 4096
"""Small, so that there are several segments."""


class AnsweringMachine(ReplicatedStateMachine):
    """Keeps what commands were answered: what was refused, and the ids of what was not."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Any] = []

    def apply(self, index: int, command: bytes) -> Accepted | Rejected:
        answer = super().apply(index, command)
        refused = isinstance(answer, Rejected)
        self.answers.append(answer.reason.name if refused else list(answer.ids))  # type: ignore[union-attr]
        return answer


def record(directory: Path) -> None:
    """Write a recording to a directory, which it makes."""
    (directory / JOURNAL).mkdir(parents=True)
    disk = DirectoryDisk(directory / JOURNAL)
    create_store(disk, A, [A])
    journal = _open(disk)
    journal.setCurrentTerm(4, B)
    for term, entry in _entries():
        journal.add(entry, journal.last_index + 1, term)
        journal.write_and_sync(journal.take_pending())
    disk.close()
    shutil.copytree(directory / JOURNAL, directory / SNAPSHOT)
    _take_snapshot(DirectoryDisk(directory / SNAPSHOT))
    facts = {name: plain(fact) for name, fact in facts_of(directory / JOURNAL).items()}
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    (directory / FACTS).write_text(text + "\n")


def facts_of(store: Path) -> dict[str, Any]:
    """What a store says to this release. Opening it may write to it."""
    machine = AnsweringMachine()
    engine = Engine(disk=DirectoryDisk(store), machine=machine, config=RaftConfig())
    journal = engine.journal
    apply_entries(machine, journal, after=engine.applied_index)
    facts = {
        "answers": machine.answers,
        "state": machine.state.data(),
        "voter": engine.voter,
        "voters": engine.voters,
        "index": journal.last_index,
        "entry_term": journal.term_at(journal.last_index),
        "term": journal.getCurrentTerm(),
        "voted_for": journal.getVotedForNodeId(),
    }
    engine.close()
    return facts


def _open(disk: DirectoryDisk) -> SegmentedJournal:
    return SegmentedJournal(disk, base_voters=frozenset(), segment_bytes_max=SEGMENT_BYTES_MAX)


def _take_snapshot(disk: DirectoryDisk) -> None:
    journal, machine = _open(disk), ReplicatedStateMachine()
    last = int(SNAPSHOT_SHARE * journal.last_index)
    for command, index, _ in journal[:]:
        if index <= last and command[:1] == REGULAR:
            apply_entry(machine, index, command[1:])
    term = journal.term_at(last)
    assert term is not None
    position = Position(index=last, term=term, voters=journal.voters(up_to=last))
    store_snapshot(disk, position, machine.freeze()())
    journal.trim(position.index, position.voters)
    journal.write_and_sync(journal.take_pending())
    disk.close()


def _entries() -> Iterator[tuple[int, bytes]]:
    """Every kind of entry, in the terms of two leaders."""
    yield 1, NO_OP
    yield 1, MEMBERSHIP + f"add {B}".encode()
    yield 1, MEMBERSHIP + f"add {C}".encode()
    encoded = list(map(encode_command, commands()))
    for begin in range(0, len(encoded), BATCH):
        batch = encode_entry(begin.to_bytes(BATCH_ID_BYTES, "big"), encoded[begin : begin + BATCH])
        yield 1 if begin < len(encoded) // 2 else 3, REGULAR + batch
    yield 3, MEMBERSHIP + f"rem {C}".encode()


def main() -> None:
    directory = RECORDINGS / f"v{__version__}"
    if directory.exists():
        sys.exit(f"{directory} is there: what a release wrote is never written again")
    record(directory)


if __name__ == "__main__":
    main()
