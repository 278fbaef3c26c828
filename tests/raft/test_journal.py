"""The journal: what was synced is there after any crash, what was not is cut, damage is refused."""

from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.journal import REGULAR, SegmentedJournal
from ipfs_cluster_node.adapters.raft.segments import SYNCED_NAME
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId

A, B = VoterId("a.1"), VoterId("b.1")


def opened(path: Path) -> SegmentedJournal:
    return SegmentedJournal(DirectoryDisk(path), base_voters=frozenset(), segment_bytes_max=2000)


def sync(journal: SegmentedJournal) -> None:
    journal.write_and_sync(journal.take_pending())


def filled(path: Path, count: int = 5) -> SegmentedJournal:
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


def one_by_one(path: Path, count: int = 5, *, noted: bool = False) -> Path:
    """Fill a journal, an entry a sync; returns its only segment.

    The note of what was synced is lost if not `noted`: it is not synced itself.
    """
    journal = opened(path)
    for index in range(2, 2 + count):
        journal.add(REGULAR + b"command %d" % index, index, 3)
        sync(journal)
    journal._destroy()
    if not noted:
        (path / SYNCED_NAME).unlink()
    [segment] = path.glob("journal-*")
    return segment


def test_a_write_that_was_cut_anywhere_leaves_a_prefix(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    least = (tmp_path / "j" / "journal-00000001").stat().st_size
    journal._destroy()
    segment = one_by_one(tmp_path / "j")
    whole = segment.read_bytes()
    seen = set()
    for length in range(least, len(whole)):
        segment.write_bytes(whole[:length])
        again = opened(tmp_path / "j")
        seen.add(again.last_index)
        assert [e[1] for e in again[:]] == list(range(1, again.last_index + 1))
        again._destroy()
        (tmp_path / "j" / SYNCED_NAME).unlink(missing_ok=True)
    assert seen == {1, 2, 3, 4, 5}


def test_a_torn_sync_leaves_none_of_it_and_is_no_damage(tmp_path: Path) -> None:
    """Pages of what was not synced reach the disk in any order."""
    segment = one_by_one(tmp_path / "j")
    before = segment.stat().st_size
    journal = opened(tmp_path / "j")
    forged = segment.read_bytes()[-60:]
    for index in range(7, 10):
        journal.add(REGULAR + forged + bytes(500), index, 3)
    sync(journal)
    journal._destroy()
    data = bytearray(segment.read_bytes())
    data[before : before + 600] = bytes(600)
    segment.write_bytes(data)
    (tmp_path / "j" / SYNCED_NAME).unlink()  # It is noted after the sync only.
    assert opened(tmp_path / "j").last_index == 6


def test_a_damaged_end_is_told_from_a_torn_one_by_the_note(tmp_path: Path) -> None:
    segment = one_by_one(tmp_path / "j", noted=True)
    whole = segment.read_bytes()
    note = (tmp_path / "j" / SYNCED_NAME).read_bytes()
    last = whole.rindex(b"E") - 24
    damaged = [whole[:length] for length in range(len(whole))]
    for position in range(last, len(whole)):
        data = bytearray(whole)
        data[position] ^= 1
        damaged.append(bytes(data))
    for content in damaged:
        segment.write_bytes(content)
        with pytest.raises(LogDamagedError):
            opened(tmp_path / "j")
        assert segment.read_bytes() == content  # It is left as it was found.
        assert (tmp_path / "j" / SYNCED_NAME).read_bytes() == note
    # A frame that was being written when the process ended was never acknowledged.
    for tail in (b"x", whole[last:-1], bytes(1000)):
        segment.write_bytes(whole + tail)
        again = opened(tmp_path / "j")
        assert again.last_index == 6
        again._destroy()


def test_a_newest_segment_that_is_gone_is_damage(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    for index in range(2, 40):
        journal.add(REGULAR + bytes(500), index, 7)
        sync(journal)
    journal._destroy()
    segments = sorted((tmp_path / "j").glob("journal-*"))
    segments[-1].unlink()
    with pytest.raises(LogDamagedError):
        opened(tmp_path / "j")
    for segment in segments[:-1]:
        segment.unlink()
    with pytest.raises(LogDamagedError):
        opened(tmp_path / "j")


def test_a_note_that_is_old_torn_or_lost_is_no_damage(tmp_path: Path) -> None:
    """It is not synced: a crash brings back any earlier one, or none."""
    note = tmp_path / "j" / SYNCED_NAME
    one_by_one(tmp_path / "j", 2, noted=True)
    old = note.read_bytes()
    journal = opened(tmp_path / "j")
    journal.add(REGULAR + b"more", 4, 3)
    sync(journal)
    journal._destroy()
    new = note.read_bytes()
    assert new != old
    for content in (old, new, b"", new[:7], old[:12] + new[12:], bytes(len(new)), None):
        if content is None:
            note.unlink()
        else:
            note.write_bytes(content)
        again = opened(tmp_path / "j")
        assert again.last_index == 4
        again._destroy()


def test_a_flipped_bit_with_whole_frames_behind_it_is_refused(tmp_path: Path) -> None:
    segment = one_by_one(tmp_path / "j")
    whole = segment.read_bytes()
    last = whole.rindex(b"E") - 24
    for position in range(last):
        data = bytearray(whole)
        data[position] ^= 1
        segment.write_bytes(data)
        with pytest.raises(ClusterError) as caught:
            opened(tmp_path / "j")
        assert caught.value.reason is Reason.HOME_DAMAGED


def test_segments_that_a_snapshot_covers_go(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    journal.setCurrentTerm(7, B)
    for index in range(2, 40):
        journal.add(REGULAR + bytes(500), index, 7)
        sync(journal)
    names = sorted(path.name for path in (tmp_path / "j").iterdir())
    removed = (tmp_path / "j" / names[0]).read_bytes()
    assert len(names) > 5
    journal.trim(30, frozenset({A}))
    left = sorted(path.name for path in (tmp_path / "j").iterdir())
    assert len(left) < 5
    # A crash may bring a removed one back.
    (tmp_path / "j" / names[0]).write_bytes(removed)
    base = (REGULAR, 30, 7)
    again = SegmentedJournal(DirectoryDisk(tmp_path / "j"), base=base, base_voters=frozenset({A}))
    assert (again.last_index, again.term_at(35)) == (39, 7)
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (7, B)
    assert sorted(path.name for path in (tmp_path / "j").iterdir()) == left


def test_a_log_that_begins_behind_its_snapshot_is_refused(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    for index in range(2, 40):
        journal.add(REGULAR + bytes(500), index, 7)
        sync(journal)
    journal.trim(30, frozenset({A}))
    for base in ((REGULAR, 5, 7), (REGULAR, 1, 0)):
        with pytest.raises(ClusterError) as caught:
            SegmentedJournal(DirectoryDisk(tmp_path / "j"), base=base, base_voters=frozenset({A}))
        assert caught.value.reason is Reason.HOME_DAMAGED


def test_a_trimmed_journal_begins_behind_its_snapshot(tmp_path: Path) -> None:
    journal = filled(tmp_path / "j")
    journal.trim(4, frozenset({A}))
    journal.add(REGULAR + b"more", 7, 3)
    sync(journal)
    after = SegmentedJournal(
        DirectoryDisk(tmp_path / "j"), base=(REGULAR, 4, 3), base_voters=frozenset({A})
    )
    assert [e[1] for e in after[:]][-4:] == [4, 5, 6, 7]
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
