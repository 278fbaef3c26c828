"""What changed since a revision, compared with a list of all changes."""

import random
from itertools import pairwise

from ipfs_cluster_node.core import changes
from ipfs_cluster_node.core.changes import Changes
from ipfs_cluster_node.core.tables import TableName

TABLES = (TableName.TASKS, TableName.CONTENTS)


def test_what_changed_since_is_what_was_noted_since() -> None:
    rng = random.Random(5)
    known = Changes(TABLES, 10, keys_max=30)
    noted: list[tuple[int, TableName, str]] = []
    for revision in range(11, 400):
        table = rng.choice((*TABLES, TableName.REQUESTS))
        keys = {str(rng.randrange(60)) for _ in range(rng.randrange(4))}
        known.note(revision, {table: keys} if keys else {})
        noted += ((revision, table, key) for key in keys)
        if rng.random() < 0.6:
            continue  # Noted, and not asked for yet.
        for asked in TABLES:
            floor = known.floor(asked)
            assert floor <= revision
            assert known.since(asked, floor - 1) is None
            for since in range(floor, revision + 1):
                found = known.since(asked, since)
                wanted = {key for at, name, key in noted if name is asked and at > since}
                assert found is not None
                assert len(found) == len(set(found))
                assert set(found) == wanted
    assert known.floor(TableName.TASKS) > 10


def test_nothing_is_known_of_what_came_before() -> None:
    known = Changes(TABLES, 7)
    assert known.since(TableName.TASKS, 6) is None
    assert known.since(TableName.TASKS, 7) == []


def test_what_nobody_asks_for_is_bounded_by_entries_and_by_keys() -> None:
    known = Changes(TABLES, 0)
    for revision in range(1, changes.ENTRIES_KEPT_MAX + 11):
        known.note(revision, {})
    assert known.floor(TableName.TASKS) == 10
    known = Changes(TABLES, 0, keys_max=5)
    for revision in range(1, 4):
        known.note(revision, {TableName.CONTENTS: {"a", "b"}})
    assert known.since(TableName.TASKS, 0) is None
    assert known.since(TableName.TASKS, 1) == []


def test_a_term_is_that_of_the_entries_from_its_first_on() -> None:
    known = Changes(TABLES, 7)
    assert known.term_of(8) is None
    for revision, term in ((8, 1), (9, 1), (12, 3)):
        known.note_term(revision, term)
    assert [known.term_of(at) for at in (7, 8, 9, 12, 99)] == [None, 1, 1, 3, 3]
    # The entry with which a term begins changes nothing, and is not seen.
    assert [known.term_of(at) for at in (10, 11)] == [None, None]


def test_a_position_before_the_first_term_that_is_remembered_is_compacted() -> None:
    known = Changes(TABLES, 7)
    for term in range(changes.TERMS_KEPT_MAX + 1):
        known.note_term(10 + term, term)
    assert known.floor(TableName.TASKS) == 11


def test_what_nobody_asked_for_is_sorted_in_slices() -> None:
    """At once it held the loop for 80 ms, when the first watch began."""
    known = Changes(TABLES, 0)
    for revision in range(1, 4001):
        known.note(revision, {TableName.TASKS: {f"{revision}.{n}" for n in range(10)}})
    slices, sizes = 0, [0]
    while known.sort():
        slices += 1
        sizes.append(len(known._last[TableName.TASKS]))
    assert slices >= 40_000 // changes.SORTED_AT_ONCE - 1
    assert max(b - a for a, b in pairwise(sizes)) <= changes.SORTED_AT_ONCE + 10
    assert known.floor(TableName.TASKS) == 0
    found = known.since(TableName.TASKS, 1)
    assert found is not None
    assert len(found) == 39_990


def test_what_is_dropped_is_a_tenth_at_a_time() -> None:
    """One by one, at each change, the floor would move at each: and all would be copied."""
    known = Changes(TABLES, 0, keys_max=100)
    for revision in range(1, 102):
        known.note(revision, {TableName.TASKS: {str(revision)}})
        known.sort()
    assert known.floor(TableName.TASKS) == 11
    for revision in range(102, 112):
        known.note(revision, {TableName.TASKS: {str(revision)}})
        assert known.floor(TableName.TASKS) == 11
    assert len(known.since(TableName.TASKS, 11) or ()) == 100
