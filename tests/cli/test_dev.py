"""How `dev` ends, with a stand-in for the cluster."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1] == "nohup" else signal.SIG_DFL)
from ipfs_cluster_node.cli import local_cluster
from ipfs_cluster_node.cli.main import main

class Cluster:
    nodes = ()
    def __init__(self, root, **_): self.root = root
    def choose_nodes(self, **_): pass
    async def start(self, **_): (self.root / "made").touch()
    async def stop(self): (self.root / "stopped").touch()

local_cluster.LocalCluster = Cluster
main(["dev", "--directory", sys.argv[2], "--json"])
"""


@pytest.mark.parametrize(
    ("sent", "started"),
    [
        (signal.SIGHUP, "in a terminal"),
        (signal.SIGTERM, "in a terminal"),
        (signal.SIGINT, "in a terminal"),
        (signal.SIGTERM, "nohup"),
    ],
)
def test_dev_stops_its_nodes_whichever_way_it_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, started: str
) -> None:
    monkeypatch.setenv("IPFS_CLUSTER_NODE_PROFILES", str(tmp_path / "profiles.toml"))
    directory = tmp_path / "dev"
    directory.mkdir()
    command = [sys.executable, "-c", SCRIPT, started, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as dev:
        assert dev.stdout is not None
        assert b"ready" in dev.stdout.readline()
        if started == "nohup":
            dev.send_signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                dev.wait(0.5)
        dev.send_signal(sent)
        assert dev.wait(30) == 0
    assert (directory / "stopped").exists()
