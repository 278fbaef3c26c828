"""How `dev` ends, with a stand-in for the cluster."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ipfs_cluster_node.config.profiles import Profile, ProfileEndpoint, save_profile

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


@pytest.mark.parametrize(
    ("variable", "every"),
    [("", "ipfs-cluster-node profile use "), ("other", "export IPFS_CLUSTER_NODE_PROFILE=")],
)
def test_a_second_dev_first_says_which_cluster_commands_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, every: str
) -> None:
    monkeypatch.setenv("IPFS_CLUSTER_NODE_PROFILES", str(tmp_path / "profiles.toml"))
    monkeypatch.setenv("IPFS_CLUSTER_NODE_PROFILE", variable)
    file = tmp_path / "client.pem"
    file.touch()
    endpoints = (ProfileEndpoint("h:1", "x"),)
    save_profile("default", Profile(endpoints=endpoints, ca=file, certificate=file, key=file))
    command = [sys.executable, "-c", SCRIPT, "in a terminal", str(tmp_path / "dev")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as dev:
        assert dev.stdout is not None
        ready = json.loads(dev.stdout.readline())
        dev.send_signal(signal.SIGINT)
        _, printed = dev.communicate(timeout=30)
    first, second = printed.decode().splitlines()
    used = variable or "default"
    name = ready["profile"]
    assert first == f"this cluster's profile is {name}; commands without --profile use {used}"
    assert f"add --profile {name} to a command" in second
    assert second.endswith(f"{every}{name}")
