"""What a kit's metadata may say, and what is refused before anything is made."""

import errno
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.config.profiles import JOIN_TOKEN_VARIABLE
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.kit import KitError, host, ipfs_kit
from ipfs_cluster_node.kit.addresses import MasterAddress, multiaddr_of, parse_master_address
from ipfs_cluster_node.kit.results import NOT_SUPPORTED, ErrorType
from ipfs_cluster_node.kit.wanted import KEYS, node_wanted
from tests.support.kits import kit_environment

PEER = "12D3KooWDhWxtvTnyMeS5HYtW77Nkh8NG6Eb7pAkCsvjQkaN1pnH"


@pytest.mark.parametrize(
    ("text", "address", "peer"),
    [
        ("10.0.0.1:9096", "10.0.0.1:9096", None),
        (f"/ip4/10.0.0.1/tcp/9096/p2p/{PEER}", "10.0.0.1:9096", PEER),
        (f"/ip6/::1/tcp/9096/p2p/{PEER}", "[::1]:9096", PEER),
        ("/dns4/a.example/tcp/1", "a.example:1", None),
    ],
)
def test_addresses_of_masters(text: str, address: str, peer: str | None) -> None:
    parsed = parse_master_address(text)
    assert parsed == MasterAddress(address, peer)  # type: ignore[arg-type]
    if peer is not None:
        assert multiaddr_of(address, peer) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "/ip4/10.0.0.1/udp/1",
        "/ip4/10.0.0.1/tcp/99999/p2p/" + PEER,
        "/ip4/10.0.0.1/tcp/9096/p2p/nobody",
        "/ip4/10.0.0.1/tcp/9096/p2p/" + PEER + "/p2p-circuit",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ClusterError) as caught:
        parse_master_address(text)
    assert caught.value.reason is Reason.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("metadata", "error_type", "words"),
    [
        (
            {"role": "boss"},
            ErrorType.VALIDATION,
            "Invalid role: boss; give master, worker, leecher",
        ),
        ({"cluster_config": {"consensus_protcol": 1}}, ErrorType.VALIDATION, "consensus_protocol?"),
        ({"cluster_config": {"stateSyncInterval": 1}}, ErrorType.VALIDATION, "did you mean"),
        ({"cluster_name": "-x"}, ErrorType.VALIDATION, "begin with a letter or digit"),
        ({"cluster_config": {"consensus_protocol": "paxos"}}, ErrorType.CONFIGURATION, "Raft"),
        ({"cluster_config": []}, ErrorType.VALIDATION, "dictionary"),
        ({"cluster_config": {"state_sync_interval": -1}}, ErrorType.VALIDATION, "seconds"),
        ({"cluster_config": {"state_sync_interval": True}}, ErrorType.VALIDATION, "seconds"),
        ({"cluster_config": {"state_sync_interval": 86_401}}, ErrorType.VALIDATION, "seconds"),
        ({"cluster_name": "../x"}, ErrorType.VALIDATION, "no name"),
        ({"node_name": ".."}, ErrorType.VALIDATION, "no name"),
        ({"master_addresses": ["/ip4/1"]}, ErrorType.VALIDATION, "no address"),
        (
            {"role": "worker", "cluster_name": "c"},
            ErrorType.CONFIGURATION,
            "ipfs-cluster-node --profile c token create --role worker",
        ),
        ({"role": "worker", "join_token": "x"}, ErrorType.PERMISSION, "copy the whole"),
        ({"role": 5}, ErrorType.VALIDATION, "role is 5"),
        ({"cluster_name": 5}, ErrorType.VALIDATION, "cluster_name is 5"),
        ({"recovery_passphrase": b"x" * 30}, ErrorType.VALIDATION, "recovery_passphrase is"),
        ({"master_addresses": 5}, ErrorType.VALIDATION, "master_addresses is 5"),
        ({"master_addresses": ["a:" + "9" * 5000]}, ErrorType.VALIDATION, "not an address"),
        ({"advertise": [5]}, ErrorType.VALIDATION, "advertise is 5"),
        ({"enable_cluster_management": "false"}, ErrorType.VALIDATION, "True or False"),
        ({"enable_cluster_management": 10**5000}, ErrorType.VALIDATION, "of type int"),
    ],
)
def test_metadata_that_can_t_be_are_refused_and_make_nothing(
    metadata: dict[str, Any],
    error_type: ErrorType,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in kit_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(KitError) as caught:
        ipfs_kit(metadata={"role": "master", "enable_cluster_management": True} | metadata)
    assert caught.value.error_type is error_type
    assert words in caught.value.message
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("cluster_nam", "cluster_name"),
        ("master_address", "master_addresses"),
        ("Role", "role"),
        ("join-token", "join_token"),
        ("enrollment", "enrolment"),
    ],
)
def test_an_error_names_keys_that_look_misspelt(
    key: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in kit_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(KitError) as caught:
        ipfs_kit(metadata={"role": "worker", "enable_cluster_management": True, key: "x"})
    assert f"{key!r} means nothing, did you mean {meant}?" in caught.value.message


def test_a_misspelt_switch_is_named_by_every_call_and_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kit = ipfs_kit(metadata={"role": "master", "enable_cluster_managment": True})
    assert "did you mean enable_cluster_management?" in kit.get_cluster_status()["error"]
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert "did you mean enable_cluster_management?" in caplog.text


def test_keys_of_other_parts_are_nobody_s_business(caplog: pytest.LogCaptureFixture) -> None:
    """Code for IPFS Kit has them."""
    others: Any = {
        "resources": {},
        "local_storage_path": "/x",
        "node_id": "n",
        "cluster_id": "c",
        5: 5,
    }
    assert "mean" not in ipfs_kit(metadata=others).get_nodes()["error"]
    assert caplog.records == []
    node_wanted({"cluster_config": {"foo": 1}}, "worker")
    assert "'foo' means nothing here; there are consensus_protocol" in caplog.text


def test_the_keys_are_those_that_the_page_lists() -> None:
    page = (Path(__file__).parents[2] / "docs" / "kit.md").read_text()
    table = page.partition("## Metadata")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in row.split("`")[1::2]) == sorted(KEYS)


@pytest.mark.parametrize("metadata", ["role", [1], 5])
def test_metadata_are_a_dictionary(metadata: Any) -> None:
    with pytest.raises(KitError, match="metadata must be a dictionary"):
        ipfs_kit(metadata=metadata)


def test_metadata_without_a_value_are_the_default() -> None:
    """A passphrase read from an unset variable was once the word `None`."""
    nothing = dict.fromkeys(each for each in KEYS if each != "cluster_config")
    assert node_wanted(nothing, "worker") == node_wanted({}, "worker")


def test_metadata_are_taken_as_they_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    one = node_wanted({"master_addresses": "10.0.0.1:1", "advertise": "h:1"}, "worker")
    assert one.master_addresses == (MasterAddress("10.0.0.1:1"),)
    assert one.advertise == ("h:1",)
    assert (one.cluster_name, one.node_name, one.join_token) == ("default", "worker", "")
    monkeypatch.setenv(JOIN_TOKEN_VARIABLE, "of the environment")
    assert node_wanted({}, "master").join_token == "of the environment"
    assert node_wanted({"join_token": "named"}, "master").join_token == "named"


def test_a_kit_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in kit_environment(tmp_path).items():
        monkeypatch.setenv(name, value)

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(host, "make_private_directory", full)
    with pytest.raises(KitError, match="No space left") as caught:
        ipfs_kit(metadata={"role": "master", "enable_cluster_management": True})
    assert caught.value.error_type is ErrorType.FILE


def test_docs_list_what_is_not_supported() -> None:
    page = (Path(__file__).parents[2] / "docs" / "kit.md").read_text()
    listed = page.partition("## Not supported yet")[2].partition("\n## ")[0]
    assert {line.split("`")[1] for line in listed.splitlines() if line.startswith("- `")} == set(
        NOT_SUPPORTED
    )
    assert len(NOT_SUPPORTED) == 3  # Fewer with each release; none in the end.
