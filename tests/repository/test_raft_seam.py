"""PySyncObj can be replaced behind the engine (ADR 0002): nothing reaches through it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
RAFT = "ipfs_cluster_node/adapters/raft"
ENGINE = {f"{RAFT}/engine.py", f"{RAFT}/snapshots.py"}
GUARDED = "ipfs_cluster_node.adapters.raft.guarded"
KNOWS_IT = {
    "scripts/lib/sim/breaks.py",  # Takes its guards out,
    "tests/raft/test_guards.py",  # tests them,
    "tests/raft/test_guards_follower.py",
    "tests/raft/test_guards_leader.py",
    "tests/support/voters.py",
    "tests/support/engines.py",  # and has an engine do what no caller can.
}


def test_only_the_engine_reaches_what_it_wraps() -> None:
    reached = set()
    for room in ("ipfs_cluster_node", "scripts", "tests"):
        for path in (ROOT / room).rglob("*.py"):
            name = str(path.relative_to(ROOT))
            text = path.read_text(encoding="utf-8")
            if "/raft/guarded/" in name or not ("_raft" in text or GUARDED in text):
                continue
            for node in ast.walk(ast.parse(text)):
                match node:
                    case ast.Attribute(attr="_raft"):
                        reached.add(name)
                    case ast.ImportFrom(module=str(module)) if module.startswith(GUARDED):
                        reached.add(name)
    assert reached == ENGINE | KNOWS_IT
