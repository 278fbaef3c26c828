"""Commands that make a node or a cluster do not touch a directory with other files."""

import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from ipfs_cluster_node.cli.local_cluster import command
from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import profile_names, updating_profiles

TOKEN = f"cj1.{'a' * 64}.{'b' * 16}.{'c' * 32}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("init", "--home"),
        ("join", TOKEN, "--enrolment", "127.0.0.1:1", "--home"),
        ("dev", "--masters", "1", "--workers", "0", "--directory"),
    ],
)
def test_a_directory_in_use_is_refused_and_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("IPFS_CLUSTER_NODE_PROFILES", str(tmp_path / "profiles.toml"))
    taken = tmp_path / "taken"
    taken.mkdir(mode=0o755)
    taken.chmod(0o755)
    (taken / "note").touch()
    done = CliRunner().invoke(main, [*arguments, str(taken)])
    assert done.exit_code == 1, done.output
    assert "[HOME_EXISTS]" in done.output
    assert [each.name for each in taken.iterdir()] == ["note"]
    assert taken.stat().st_mode & 0o777 == 0o755


def test_two_clusters_that_are_made_at_once_get_a_profile_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = tmp_path / "profiles.toml"
    monkeypatch.setenv("IPFS_CLUSTER_NODE_PROFILES", str(profiles))
    homes = [tmp_path / "a", tmp_path / "b"]
    with updating_profiles():
        making = [
            subprocess.Popen(command("init", "--home", str(home)), stdout=subprocess.DEVNULL)
            for home in homes
        ]
        while not all(Home(home).config.exists() for home in homes):
            time.sleep(0.05)
        # Real processes under a lock that this test holds: nothing tells that they wait at it. Half
        # a second is enough for both to choose the same name if there were no lock.
        time.sleep(0.5)
    assert [each.wait(60) for each in making] == [0, 0]
    assert profile_names() == ("cluster", "default")
