"""The commands in blocks of code of README and docs work as printed.

Those that need another machine, a terminal of their own or a lost cluster have tests of their own.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.core.errors import Exit
from tests.support.printed_commands import ROOT, in_blocks

ELSEWHERE: Final = {
    "init": "a machine's first node",
    "join": "another machine; tests of joining",
    "serve": "goes on until it is stopped",
    "dev": "goes on until it is stopped; tests of dev",
    "config watch": "goes on until it is stopped; tests of the history of settings",
    "state watch": "goes on until it is stopped; tests of the watch",
    "recover": "a lost cluster; tests of recovery",
    "leave": "a node that is not needed; tests of leaving",
    "auth narrow": "a client that has joined; tests of narrowing",
    "task submit word_count": "an own handler; the tests of docs/handlers.md",
    "task submit mean": "an own handler; the tests of docs/handlers.md",
}
"""How a command that is not run here begins, and why."""


def test_every_command_of_a_block_works_as_printed(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weather = ROOT / "scripts" / "lib" / "data" / "weather.csv"
    there = tmp_path / "scripts" / "lib" / "data"
    there.mkdir(parents=True)
    shutil.copy(weather, there)
    shutil.copy(weather, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    added = json.loads(cli("content", "add", "copy", "--json").stdout)
    (tmp_path / "copy").write_text("to be removed")
    other = json.loads(cli("content", "add", "copy", "--json").stdout)
    (tmp_path / "copy").unlink()
    means: dict[str, str] = {
        r"\$CID|\$cid": added["cid"],
        r"^CID$": other["cid"],
        r"did:key:z6Mk…": Identity.create().did,
        r"\bFILE\b": "kept",
    }
    ran = 0
    for page, printed in in_blocks():
        own = page == "handlers.md" or "word_count" in printed
        if own or " ".join(printed).startswith(
            tuple(ELSEWHERE)
        ):  # Own handlers: test_own_handlers.py.
            continue
        words = list(printed)
        for pattern, text in means.items():
            words = [re.sub(pattern, text, word) for word in words]
        done = cli(*words)
        # The question of the docs is whether team-b is allowed as well, and it is not.
        expected = Exit.DENIED if printed[:2] == ["auth", "explain"] else Exit.DONE
        assert done.returncode == expected, (page, words, done.stderr)
        ran += 1
    assert ran > 8
