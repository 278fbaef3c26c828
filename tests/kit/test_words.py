"""Errors of a kit name what a program can do: keys of the metadata, and commands that work."""

from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.net.tls import bind_port
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.client.sync import SyncClient
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import ClusterSection, NodeSection, NodeSettings
from ipfs_cluster_node.core.endpoints import Endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.kit.results import ErrorType, KitError
from ipfs_cluster_node.kit.words import in_words_of_the_kit


def of_the_kit(error: ClusterError) -> str:
    return KitError.of(error, "two users").message


class Taken:
    """A server whose every port is taken."""

    def add_secure_port(self, *_asked: object) -> int:
        return 0


@pytest.mark.parametrize("flag", ["--bind", "--enrolment-bind"])
def test_a_taken_port_names_the_key_that_changes_it(flag: str) -> None:
    with pytest.raises(ClusterError) as caught:
        bind_port(Taken(), Endpoint("127.0.0.1", 1), None, flag=flag)  # type: ignore[arg-type]
    key = flag[2:].replace("-", "_")
    assert of_the_kit(caught.value).endswith(f"or give another `{key}` in the metadata")


def test_a_taken_home_names_the_key_that_names_another(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.lock(), pytest.raises(ClusterError) as caught, home.lock():
        pass
    assert of_the_kit(caught.value).endswith("or give another node_name in the metadata")
    home.config.touch()
    for said in (home.taken(), Home(tmp_path / "other").taken()):
        assert "--" not in of_the_kit(said)


def test_a_missing_address_names_the_key_that_gives_it() -> None:
    node = NodeSection(name="n", role="master", bind="0.0.0.0:1")
    with pytest.raises(ClusterError) as caught:
        NodeSettings(node=node, cluster=ClusterSection(id="i", name="c"))
    assert of_the_kit(caught.value).endswith("by `advertise` in the metadata")


def test_masters_that_do_not_run_are_started_by_their_programs() -> None:
    with (
        SyncClient(lambda: Client(Connection([("127.0.0.1:1", None)], None))) as client,
        pytest.raises(ClusterError) as caught,
    ):
        client.list_nodes()
    assert "serve" in caught.value.message
    assert of_the_kit(caught.value).endswith("start the programs whose kits are masters")


@pytest.mark.parametrize(
    ("said", "kit"),
    [
        ("ask: ipfs-cluster-node token delegate D", "--profile 'two users' token delegate D"),
        ("run ipfs-cluster-node cluster status", "--profile 'two users' cluster status"),
        ("run ipfs-cluster-node recover keys", "ipfs-cluster-node recover keys"),
        ("run ipfs-cluster-node serve --enrolment", "ipfs-cluster-node serve --enrolment"),
        ("have `ipfs-cluster-node join TOKEN`", "`ipfs-cluster-node join TOKEN`"),
        (
            "name one that runs: ipfs-cluster-node serve --master N@HOST:PORT (see `node list`)",
            "name one that runs in `master_addresses`, by the `node_address` of its kit",
        ),
        ("something listens, see --enrolment-bind", "see `enrolment_bind` of the metadata"),
        ("join in another --home", "join with another node_name in the metadata"),
        ("name another --home and", "give another node_name in the metadata and"),
    ],
)
def test_commands_name_the_profile_and_options_are_keys(said: str, kit: str) -> None:
    assert kit in in_words_of_the_kit(said, "two users")


@pytest.mark.parametrize(
    ("reason", "error_type"),
    [
        (Reason.TASK_FINISHED, ErrorType.VALIDATION),
        (Reason.REQUEST_ID_REUSED, ErrorType.VALIDATION),
        (Reason.PORT_IN_USE, ErrorType.CONFIGURATION),
        (Reason.HOME_IN_USE, ErrorType.CONFIGURATION),
        (Reason.NODE_REMOVED, ErrorType.CONFIGURATION),
        (Reason.LOG_ROLLED_BACK, ErrorType.CONFIGURATION),
        (Reason.INTERNAL, ErrorType.UNKNOWN),
    ],
)
def test_what_is_known_of_an_error_is_its_type(reason: Reason, error_type: ErrorType) -> None:
    assert KitError.of(ClusterError(reason, "why"), "c").error_type is error_type
