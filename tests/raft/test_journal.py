"""The journal: what was synced is there after any crash, what was not is cut, damage is refused."""

from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.raft.journal import MAGIC, REGULAR, FileJournal
from ipfs_cluster_node.adapters.raft.snapshot import Snapshot, decode_snapshot_file
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId

A, B = VoterId("a.1"), VoterId("b.1")


def opened(path: Path) -> FileJournal:
    return FileJournal(path, base_voters=frozenset())


def sync(journal: FileJournal) -> None:
    journal.write_and_sync(journal.take_pending())


def filled(path: Path, count: int = 5) -> FileJournal:
    journal = opened(path)
    journal.setCurrentTerm(3, A)
    for index in range(2, 2 + count):
        journal.add(REGULAR + b"command %d" % index, index, 3)
    sync(journal)
    return journal


def test_entries_term_and_vote_are_there_again(tmp_path: Path) -> None:
    before = filled(tmp_path / "j")
    before.deleteEntriesFrom(4)
    sync(before)
    after = opened(tmp_path / "j")
    assert after[:] == before[:]
    assert after.last_index == 4
    assert (after.getCurrentTerm(), after.getVotedForNodeId()) == (3, A)


def test_what_was_not_synced_is_not_there(tmp_path: Path) -> None:
    journal = filled(tmp_path / "j")
    journal.add(REGULAR + b"late", 7, 3)
    assert opened(tmp_path / "j").last_index == 6


def test_a_write_that_was_cut_anywhere_leaves_a_prefix(tmp_path: Path) -> None:
    filled(tmp_path / "j").close()
    whole = (tmp_path / "j").read_bytes()
    seen = set()
    for length in range(len(MAGIC), len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        journal = opened(tmp_path / "cut")
        seen.add(journal.last_index)
        assert [e[1] for e in journal[:]] == list(range(1, journal.last_index + 1))
        journal.close()
    assert seen == {1, 2, 3, 4, 5}


def test_a_flipped_bit_with_whole_records_behind_it_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "j").close()
    data = bytearray((tmp_path / "j").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "j").write_bytes(data)
    with pytest.raises(ClusterError) as caught:
        opened(tmp_path / "j")
    assert caught.value.reason is Reason.HOME_DAMAGED


def test_a_trimmed_journal_begins_behind_its_snapshot(tmp_path: Path) -> None:
    journal = filled(tmp_path / "j")
    journal.trim(4, frozenset({A}))
    journal.add(REGULAR + b"more", 7, 3)
    sync(journal)
    after = FileJournal(tmp_path / "j", base=(REGULAR, 4, 3), base_voters=frozenset({A}))
    assert [e[1] for e in after[:]] == [4, 5, 6, 7]
    assert after.getCurrentTerm() == 3


def test_an_installed_snapshot_keeps_entries_that_agree_with_it(tmp_path: Path) -> None:
    """Raft hazard H18."""
    journal = filled(tmp_path / "j")
    journal.rebase(4, 3, frozenset())
    assert journal.last_index == 6
    journal.rebase(5, 9, frozenset())
    assert [e[1:] for e in journal[:]] == [(5, 9)]


def test_the_configuration_follows_the_entries(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    for index, change in enumerate((b"add a.1", b"add b.1", b"rem a.1"), start=2):
        journal.add(b"\x02" + change, index, 1)
    assert journal.voters() == {B}
    assert journal.voters(up_to=3) == {A, B}
    assert journal.last_change_index() == 4
    journal.deleteEntriesFrom(3)
    assert journal.voters() == {A, B}


def test_a_damaged_snapshot_is_refused() -> None:
    """Raft hazards H6 and H10."""
    encoded = Snapshot(index=7, term=2, voters=frozenset({A}), state=b"state").encode()
    assert decode_snapshot_file(encoded).state == b"state"
    for position in range(len(encoded)):
        broken = bytearray(encoded)
        broken[position] ^= 1
        with pytest.raises(ClusterError):
            decode_snapshot_file(bytes(broken))
    with pytest.raises(ClusterError):
        decode_snapshot_file(encoded[:-1])
