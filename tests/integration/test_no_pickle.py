"""No process of a cluster unpickles anything, from the wire or from disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clusters import cluster_of
from tests.support.nodes import until

HOOK = """
import os
import pickle


def refuse(*_args, **_kwargs):
    with open(os.environ["UNPICKLED"], "a") as file:
        file.write("unpickled\\n")
    raise RuntimeError("nothing is unpickled here")


class Refused(pickle.Unpickler):
    load = refuse
    dispatch = dict(getattr(pickle._Unpickler, "dispatch", {}))


for module in (pickle, __import__("_pickle")):
    for name in ("load", "loads", "_load", "_loads"):
        if hasattr(module, name):
            setattr(module, name, refuse)
    module.Unpickler = Refused
pickle._Unpickler = Refused
with open(os.environ["UNPICKLED"] + ".hooked", "a") as file:
    file.write("x")
"""


@pytest.fixture
def unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where every process that begins from now on says that it unpickled something."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", f"{hook}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("UNPICKLED", str(tmp_path / "unpickled"))
    return tmp_path / "unpickled"


def test_the_hook_sees_what_is_unpickled(unpickled: Path) -> None:
    program = "import pickle, pysyncobj.pickle as p; p.loads(pickle.dumps(1))"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert done.returncode != 0
    assert unpickled.exists()


@pytest.mark.asyncio
async def test_nothing_is_unpickled(unpickled: Path, tmp_path: Path) -> None:
    async with cluster_of(3, 1, root=tmp_path / "cluster") as cluster:
        hooked = Path(f"{unpickled}.hooked")
        assert len(hooked.read_text()) >= len(cluster.nodes)
        table = tmp_path / "table.csv"
        table.write_text("a,b\n1,2\n3,4\n")
        async with cluster.client() as client:
            added = await client.add_content(table)
            for number in range(50):
                await client.propose_config({f"user.k{number}": "v"})
            leader = await cluster.leader(client)
            await cluster.kill(leader)
            sql = {"sql": "SELECT sum(a) AS total FROM input"}
            task_id = await client.submit_task(
                "data_processing", sql, inputs=[("input", added.cid)]
            )
            await cluster.start_node(leader)

            async def is_done() -> bool:
                return (await client.get_task(task_id)).status.result is not None

            await until(is_done, seconds=30, what="the task has its result")
            assert (await client.get_snapshot("tasks")).num_rows == 1
        assert not unpickled.exists()
