"""The two blocks of code of the document that started this project, run as they are."""

import re
import textwrap
from pathlib import Path

import duckdb
import psutil
import pytest

import ipfs_cluster_node
from tests.support.kits import run_script

CSV = "city,temperature\nParis,11.5\nOslo,3\nRome,\n"
RUN_SECONDS_MAX = 120.0

BEFORE = """
import json, os, sys
sys.stdin = open(os.devnull)
"""
AFTER = """
kits = (kit_master, kit_worker)
said = {
    "status": status, "cluster_status": cluster_status, "submit": submit_result,
    "task": kit.get_task_status(task_id), "pids": [each.node_pid for each in kits],
    "node_ids": [each.node_id for each in kits], "own_pid": os.getpid(),
    "later": {name: globals().get(name) for name in (
        "potential_roles", "change_result", "token", "verification")},
}
import psutil
said["commands"] = [psutil.Process(pid).cmdline() for pid in said["pids"]]
print(json.dumps(said))
"""


@pytest.fixture
def blocks(seed: Path) -> tuple[str, str]:
    """The document's blocks of Python."""
    first, second = re.findall(r"```python\n(.*?)```", seed.read_text(), re.DOTALL)
    return first, second


def substituted(blocks: tuple[str, str]) -> tuple[str, str]:
    """The blocks with the three allowed substitutions, each matched once."""
    text = "\0".join(blocks)
    for old, new in (
        ("from ipfs_kit_py.ipfs_kit import ipfs_kit", "from ipfs_cluster_node.kit import ipfs_kit"),
        ('["/ip4/10.0.0.1/tcp/9096/p2p/QmMasterID"]', "[kit_master.node_address]"),
        ('"QmInput"', "added_cid"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    first, second = text.split("\0")
    return first, second


def uncommented(block: str) -> str:
    """A block whose commented calls are made."""
    return re.sub(r"^# (?=\w+ = kit\.)", "", block, flags=re.MULTILINE)


def add_file(folder: Path) -> str:
    """Lines that add the file to the cluster of `kit_master`, and name it `added_cid`."""
    path = folder / "input.csv"
    path.write_text(CSV)
    return textwrap.dedent(
        f"""
        from pathlib import Path
        added_cid = kit_master.client.add_file(Path({str(path)!r})).cid
        kit = kit_master
        """
    )


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("later", [False, True], ids=["as printed", "with the commented calls"])
def test_seed_snippet(blocks: tuple[str, str], tmp_path: Path, *, later: bool) -> None:
    first, second = substituted(blocks)
    if later:
        assert uncommented(second).count("\n") == second.count("\n")
        second = uncommented(second)
        assert len(re.findall(r"^\w+ = kit\.", second, re.MULTILINE)) == 6
    script = BEFORE + first + add_file(tmp_path) + second + AFTER
    said = run_script(script, tmp_path, seconds=RUN_SECONDS_MAX)

    assert said["status"]["success"] is True
    assert said["status"]["cluster_id"] == "advanced-cluster"
    assert [len(said["cluster_status"][each]) for each in ("nodes", "tasks")] == [2, 1]
    assert {node["status"] for node in said["cluster_status"]["nodes"]} == {"online"}

    task = said["task"]
    assert task["status"] == "completed"
    names = [column["name"] for column in task["result"]["columns"]]
    rows = [dict(zip(names, row, strict=True)) for row in task["result"]["rows"]]
    with duckdb.connect(":memory:") as connection:
        path = tmp_path / "input.csv"
        columns = "column_name, min, max, approx_unique, count"
        expected = connection.sql(
            f"SELECT {columns} FROM (SUMMARIZE FROM read_csv('{path}'))"
        ).fetchall()
    shown = [tuple(row[name] for name in columns.split(", ")) for row in rows]
    assert shown == expected
    assert task["result"]["unused_parameters"] == ["alpha"]

    master, worker = said["node_ids"]
    assert task["node_id"] == worker != master
    for pid, command in zip(said["pids"], said["commands"], strict=True):
        assert pid != said["own_pid"]
        assert "serve" in command
        assert not psutil.pid_exists(pid)  # They ended with the program.

    if later:
        answers = said["later"]
        assert answers["potential_roles"]["error_type"] == "not_supported"
        assert answers["change_result"]["error_type"] == "not_supported"
        # The document's peer is none, and nothing is signed for it.
        assert answers["token"]["error_type"] == "validation_error"
        assert answers["verification"]["error_type"] == "validation_error"
        assert not any(each["success"] for each in answers.values())


def test_the_package_knows_nothing_of_the_document_s_names() -> None:
    package = Path(ipfs_cluster_node.__file__).parent
    named = [
        path for path in package.rglob("*.py") if re.search(r"Qm[A-Za-z0-9]", path.read_text())
    ]
    assert named == []
