"""The page of limits says what the code does."""

import importlib
import re
from pathlib import Path
from typing import Any

from ipfs_cluster_node.access.shares import Share

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `([\w/]+)\.py::([\w.]+)` \| ([\d.]+) \| ([^|]+)", re.MULTILINE)


def test_each_limit_has_the_value_that_the_page_gives() -> None:
    rows = ROW.findall((ROOT / "docs/limits.md").read_text())
    assert len(rows) > 25
    for module, name, value, more in rows:
        bound: Any = importlib.import_module(f"ipfs_cluster_node.{module.replace('/', '.')}")
        for part in name.split("."):
            bound = getattr(bound() if isinstance(bound, type) else bound, part)
        if isinstance(bound, Share):
            assert (bound.each_max, bound.all_max) == (int(value), int(more)), name
        else:
            assert bound == float(value), name
