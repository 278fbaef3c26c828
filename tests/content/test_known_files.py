"""The blocks of a file are read once; what is remembered of them keeps them, never the reverse."""

from array import array
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.content import unneeded
from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.adapters.content.unneeded import Candidates, KnownFiles
from ipfs_cluster_node.core.multiformats import Cid
from tests.support.content import build, content, fill

FIRST = build(content(3000))
OTHER = build(content(3000)[1:])


class Reads:
    def __init__(self, store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, get = 0, store.get

        def counted(cid: Cid) -> bytes | None:
            self.count += 1
            return get(cid)

        monkeypatch.setattr(store, "get", counted)


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    made = BlockStore(tmp_path)
    fill(made, FIRST[1] | OTHER[1])
    return made


def left(store: BlockStore, known: KnownFiles, *roots: Cid) -> set[Cid]:
    candidates = Candidates([*FIRST[1], *OTHER[1]])
    candidates.discard_files(roots, store, known)
    return candidates.left


def test_a_file_is_read_once(store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, known = Reads(store, monkeypatch), KnownFiles()
    only_other = OTHER[1].keys() - FIRST[1].keys()
    assert left(store, known, FIRST[0]) == only_other
    assert reads.count > 3
    before = reads.count
    assert left(store, known, FIRST[0]) == only_other
    assert reads.count == before
    known.forget_others({FIRST[0]})
    assert known.keys_of(FIRST[0]) is not None
    known.forget_others(())
    assert known.keys_of(FIRST[0]) is None
    assert left(store, known, FIRST[0]) == only_other
    assert reads.count == 2 * before


def test_a_file_that_is_not_whole_is_read_again(store: BlockStore) -> None:
    root, blocks = FIRST
    known = KnownFiles()
    store.path_of(root).unlink()
    candidates = Candidates(blocks)
    assert candidates.discard_files([root], store, known) == {root: root}
    assert known.keys_of(root) is None
    fill(store, {root: blocks[root]})
    assert not left(store, known, root) & blocks.keys()


def test_what_was_read_once_stays_known_though_a_node_is_lost(store: BlockStore) -> None:
    root, blocks = FIRST
    known = KnownFiles()
    left(store, known, root)
    store.path_of(root).unlink()
    candidates = Candidates(blocks)
    assert candidates.discard_files([root], store, known) == {}
    assert candidates.left == set()


def test_files_beyond_the_bound_are_read_each_time(store: BlockStore) -> None:
    known = KnownFiles(blocks_max=3)
    for _ in range(2):
        assert not left(store, known, FIRST[0], OTHER[0])
        assert known.keys_of(FIRST[0]) is None
        assert known.room == 3


def test_blocks_with_the_same_key_are_kept_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unneeded, "_key", lambda _cid: 7)
    candidates = Candidates(FIRST[1])
    candidates.discard_keys(array("Q", [7]))
    assert candidates.left == set()
