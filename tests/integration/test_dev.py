"""`dev --directory` is stopped, and started again."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.cli.local_cluster import command
from ipfs_cluster_node.config.profiles import profile_names


@contextmanager
def running_dev(directory: Path, *more: str) -> Iterator[tuple[Any, subprocess.Popen[bytes]]]:
    arguments = ("dev", "--directory", str(directory), "--json", *more)
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as dev:
        assert dev.stdout is not None
        assert dev.stderr is not None
        line = dev.stdout.readline()
        try:
            yield json.loads(line or dev.stderr.read().splitlines()[-1]), dev
        finally:
            dev.send_signal(signal.SIGINT)
            dev.wait(60)


def cli(*arguments: str) -> Any:
    done = subprocess.run(command(*arguments), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_stopped_dev_continues_with_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPFS_CLUSTER_NODE_PROFILES", str(tmp_path / "profiles.toml"))
    directory, file = tmp_path / "dev", tmp_path / "file"
    file.write_bytes(os.urandom(1000))
    with running_dev(directory, "--masters", "2", "--workers", "1") as (first, _):
        cid = cli("content", "add", str(file), "--json")["cid"]
        cli("config", "set", "user.a", "1", "--json")
        with running_dev(directory) as (said, _):
            assert said["error"]["reason"] == "HOME_IN_USE", said
    assert profile_names() == ()
    with running_dev(directory) as (second, dev):
        assert second == first
        assert cli("config", "get", "user.a", "--json") == {"user.a": "1"}
        out = tmp_path / "out"
        cli("content", "get", cid, "-o", str(out), "--json")
        assert out.read_bytes() == file.read_bytes()
        assert len(cli("node", "list", "--json")) == 3
    assert dev.returncode == 0
    assert profile_names() == ()
