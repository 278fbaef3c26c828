"""The Python client on a real cluster: the examples of README and docs, as they are printed."""

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.sync import SyncClient
from ipfs_cluster_node.config.profiles import PROFILES_VARIABLE, save_profile
from tests.support.clusters import cluster_of, for_module
from tests.support.environment import environment_with

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with for_module(cluster_of(1, 1)) as local:
        yield local


@pytest.fixture
def profiles(cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(PROFILES_VARIABLE, str(tmp_path / "profiles.toml"))
    save_profile("default", cluster.profile)
    return tmp_path / "profiles.toml"


def output_of(code: str, profiles: Path, directory: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        cwd=directory,
        env=environment_with(profiles) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_readmes_script_prints_a_hundred_results_in_order(profiles: Path) -> None:
    section = (ROOT / "README.md").read_text().split("## From Python\n")[1].split("\n## ")[0]
    code = textwrap.dedent(
        "\n".join(line for line in section.splitlines() if line.startswith("    ") or not line)
    ).strip()
    assert len(code.splitlines()) <= 15
    *lines, table = output_of(code, profiles, ROOT)
    assert [line.split()[1] for line in lines] == [str(n) for n in range(100)]
    assert len({line.split()[0] for line in lines}) == 100
    assert ast.literal_eval(table) == {
        "origin": ["EWR", "JFK", "LGA"],
        "hours": [8703, 8706, 8706],
    }


def test_the_examples_of_the_page_run(profiles: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    assert len(blocks) >= 7
    said = output_of("\n".join(blocks), profiles, tmp_path)
    assert said[0] == "hello"
    assert said[1].endswith("{'numbers': [1, 2]}")
    assert said[2:5] == ["n 0", "n 1", "n 2"]
    assert said[5].startswith("SQL_FAILED Parser Error")
    assert "[{'name': 'Ada'}]" in said
    assert said[-3].endswith("b'hello'")
    assert said[-2] == "2"
    assert ast.literal_eval(said[-1]) == {"master-1": 0, "worker-1": 0}


@pytest.mark.asyncio
async def test_a_notebook_with_its_own_loop_may_use_it(cluster: LocalCluster) -> None:
    with SyncClient.from_settings(cluster.profile) as client:
        task = client.submit_task("echo", "x")
        assert [each.status.state for each in client.watch_tasks([task])][-1] == "succeeded"
        assert client.task(str(task)).result() == "x"
        for watched in client.watch_tasks([task]):  # Left early.
            assert watched.task_id == task
            break
        assert client.get_cluster_status().leader_node_id
