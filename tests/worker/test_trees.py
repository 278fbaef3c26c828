"""Directories that hostile hands have made are removed, and nothing else."""

from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.worker import trees


def test_a_link_in_the_place_of_a_directory_is_not_followed(tmp_path: Path) -> None:
    other, link = tmp_path / "other", tmp_path / "link"
    (other / "inner").mkdir(parents=True)
    (other / "inner" / "kept").write_text("kept")
    link.symlink_to(other)
    for remove in (trees.remove, trees.empty):
        with pytest.raises(OSError, match="link"):
            remove(link)
    within = tmp_path / "within"
    within.mkdir()
    (within / "link").symlink_to(other)
    trees.remove(within)
    assert not within.exists()
    assert (other / "inner" / "kept").read_text() == "kept"
