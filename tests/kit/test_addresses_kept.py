"""Addresses that the metadata change, of a node that was made before."""

from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import Profile, ProfileEndpoint, load_profile, save_profile
from ipfs_cluster_node.config.settings import (
    ClusterSection,
    NodeSection,
    NodeSettings,
    load_settings,
    write_settings,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.kit.addresses_kept import keep_addresses
from ipfs_cluster_node.kit.wanted import node_wanted
from tests.support.kits import kit_environment

OLD = NodeSection(name="n", role="master", bind="127.0.0.1:9096", enrolment_bind="127.0.0.1:9095")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name, value in kit_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    home = Home(tmp_path / "n")
    home.path.mkdir()
    write_private(home.identity, Identity.create().pem())
    settings = NodeSettings(node=OLD, cluster=ClusterSection(id="i", name="c"))
    home.config.write_text(write_settings(settings))
    return home


def keep(home: Home, **metadata: Any) -> NodeSection:
    keep_addresses(home, node_wanted(metadata, "master"))
    return load_settings(home.config, environment={}).node


def test_a_node_listens_where_the_metadata_say_from_then_on(home: Home) -> None:
    before = home.config.read_text()
    assert keep(home, bind="127.0.0.1:23457").bind == "127.0.0.1:23457"
    assert keep(home).bind == "127.0.0.1:23457"  # It stays, where nothing is said.
    # Nothing else changed: comments and other settings are the operator's.
    assert home.config.read_text() == before.replace(
        'bind = "127.0.0.1:9096"', 'bind = "127.0.0.1:23457"'
    )
    node = keep(home, enrolment_bind="127.0.0.1:23458")
    assert (node.bind, node.enrolment_bind) == ("127.0.0.1:23457", "127.0.0.1:23458")


def test_a_node_is_opened_to_other_machines_by_its_metadata(home: Home) -> None:
    node = keep(home, bind="0.0.0.0:9096", advertise="m.example:9096")
    assert (node.bind, node.advertise) == ("0.0.0.0:9096", ("m.example:9096",))
    assert node.enrolment_bind == "0.0.0.0:9095"  # Beside it, as by default.
    assert keep(home, advertise=["a:1", "b:2"]).advertise == ("a:1", "b:2")


def test_addresses_that_can_t_be_change_nothing(home: Home) -> None:
    before = home.config.read_text()
    with pytest.raises(ClusterError, match="advertise"):
        keep(home, bind="0.0.0.0:9096")
    with pytest.raises(ClusterError):
        keep(home, bind="nowhere")
    assert home.config.read_text() == before


def test_a_node_that_runs_keeps_its_addresses(home: Home) -> None:
    before = home.config.read_text()
    with home.lock(), pytest.raises(ClusterError) as caught:
        keep(home, bind="127.0.0.1:23457")
    assert caught.value.reason is Reason.HOME_IN_USE
    assert home.config.read_text() == before
    with home.lock():
        keep(home, bind="127.0.0.1:9096")  # The same: nothing is written.


def test_a_file_of_other_words_is_changed_or_the_lines_are_named(home: Home) -> None:
    text = home.config.read_text()
    home.config.write_text(text.replace('bind = "127.0.0.1:9096"', "", 1))  # The default.
    assert keep(home, bind="127.0.0.1:23457").bind == "127.0.0.1:23457"
    head, _, cluster = text.partition("[cluster]")
    inline = 'node = { name = "n", role = "master", bind = "127.0.0.1:9096" }\n'
    home.config.write_text(f"{inline}[cluster]{cluster}")
    with pytest.raises(ClusterError, match=r'write bind = "127.0.0.1:23457"') as caught:
        keep(home, bind="127.0.0.1:23457")
    assert str(home.config) in caught.value.message
    assert "bind" in head


def test_the_command_line_finds_a_node_that_moved(home: Home, tmp_path: Path) -> None:
    node_id = Identity.load(home.identity).node_id
    files = {name: tmp_path / name for name in ("ca", "certificate", "key")}
    other = ProfileEndpoint("10.0.0.1:9096", "other")
    own = ProfileEndpoint("127.0.0.1:9096", node_id)
    save_profile("c", Profile(endpoints=(other, own), **files))
    elsewhere = ProfileEndpoint("tunnel.example:1", node_id)
    save_profile("d", Profile(endpoints=(elsewhere,), **files))
    keep(home, bind="127.0.0.1:23457")
    moved = ProfileEndpoint("127.0.0.1:23457", node_id)
    assert load_profile("c").endpoints == (other, moved)
    assert load_profile("d").endpoints == (elsewhere,)
