"""If a command's output can't be written, it says so, and loses nothing that it made."""

import json
import subprocess
from pathlib import Path
from typing import Any

from ipfs_cluster_node.cli.local_cluster import command
from ipfs_cluster_node.config.home import Home
from tests.support.environment import environment_with


def run(profiles: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env=environment_with(profiles),
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_init_says_how_to_get_a_passphrase_that_could_not_be_printed(tmp_path: Path) -> None:
    profiles = tmp_path / "profiles.toml"
    home = Home(tmp_path / "n")
    with Path("/dev/full").open("w") as full:
        done = run(profiles, "init", "--home", str(home.path), "--json", stdout=full)
    assert done.returncode == 1
    said = json.loads(done.stderr)["error"]
    assert said["reason"] == "STORAGE_FULL"
    assert "recover passphrase" in said["message"]
    home.check()
    assert "default" in profiles.read_text()
    # A profile that would be lost, or can't be written, is told before anything is made.
    again = run(profiles, "init", "--home", str(tmp_path / "m"), "--profile-name", "default")
    assert again.returncode == 2
    assert "--profile-name" in again.stderr
    profiles.write_text("no toml")
    again = run(profiles, "init", "--home", str(tmp_path / "m"))
    assert again.returncode == 2
    assert not (tmp_path / "m").exists()


def test_no_command_answers_a_full_disk_with_a_traceback(tmp_path: Path) -> None:
    for arguments in (("version",), ("completion", "bash"), ("profile", "list")):
        with Path("/dev/full").open("w") as full:
            done = run(tmp_path / "none", *arguments, stdout=full)
        assert done.returncode == 1, arguments
        assert "STORAGE_FULL" in done.stderr, arguments
        assert "Traceback" not in done.stderr
