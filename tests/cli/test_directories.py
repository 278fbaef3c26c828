"""Commands that make a node or a cluster leave alone a directory that something else is in."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ipfs_cluster_node.cli.main import main

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
