"""The directory of `dev`: what is continued there, and what is refused."""

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from ipfs_cluster_node.cli.kept_cluster import KEPT_NAME, KeptCluster, keep, using
from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.core.errors import ClusterError, Reason

PORTS = {"master-1": (1, 2), "worker-1": (3, 4)}


def refused(directory: Path) -> Reason:
    with pytest.raises(ClusterError) as caught, using(directory):
        pass
    return caught.value.reason


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    with using(directory) as kept:
        assert kept is None
        keep(directory, "dev", PORTS)
    assert directory.stat().st_mode & 0o077 == 0
    with using(directory) as kept:
        assert kept == KeptCluster("dev", PORTS)


def test_a_directory_is_used_by_one_process(tmp_path: Path) -> None:
    with using(tmp_path):
        assert refused(tmp_path) is Reason.HOME_IN_USE
    with using(tmp_path) as kept:  # Stopped before it had kept anything.
        assert kept is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"profile": "p", "ports": {"m": [1]}}'])
def test_a_list_of_nodes_that_is_damaged_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / KEPT_NAME).write_text(text)
    assert refused(tmp_path) is Reason.HOME_DAMAGED


@pytest.mark.parametrize(
    ("given", "reason"),
    [(("--masters", "3"), "INVALID_ARGUMENT"), (("--workers", "0"), "INVALID_ARGUMENT")],
)
def test_other_numbers_of_nodes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], reason: str
) -> None:
    monkeypatch.setenv("IPFS_CLUSTER_NODE_PROFILES", str(tmp_path / "profiles.toml"))
    directory = tmp_path / "dev"
    with using(directory):
        keep(directory, "dev", PORTS)
    done = CliRunner().invoke(main, ["dev", "--directory", str(directory), *given])
    assert reason in done.output
    assert "1 master and 1 worker;" in done.output
    KeptCluster("dev", PORTS).check_counts(directory, 1, None)


def test_ports_that_are_taken_are_told_with_their_nodes(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError) as caught:
            KeptCluster("dev", {"worker-1": (port, 0)}).check_ports()
    assert caught.value.reason is Reason.PORT_IN_USE
    assert f"127.0.0.1:{port} (worker-1)" in caught.value.message
    KeptCluster("dev", {"worker-1": (port, 0)}).check_ports()
