"""Messages about a home: they describe what is there, and the way out."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.errors import ClusterError, Reason


def why_taken(home: Home) -> ClusterError:
    assert home.is_taken
    with pytest.raises(ClusterError) as caught, home.making():
        pass
    return caught.value


def why_no_node(home: Home) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        home.check()
    return caught.value


def test_a_nodes_home_is_told_to_start_and_a_clients_is_not(tmp_path: Path) -> None:
    node = Home(tmp_path / "node")
    node.create()
    node.config.touch()
    node.identity.touch()
    assert why_taken(node).reason is Reason.HOME_EXISTS
    assert "start it with `serve`" in why_taken(node).message
    node.check()
    client = Home(tmp_path / "client")
    client.path.mkdir()
    client.identity.touch()
    assert why_taken(client).reason is Reason.HOME_EXISTS
    assert "a client's identity" in why_taken(client).message
    assert "serve" not in why_taken(client).message
    assert "it holds a client's identity" in why_no_node(client).message
    assert "make one with `init` or `join`" in why_no_node(Home(tmp_path / "none")).message


def test_keys_without_settings_are_a_damaged_node_and_nobody_makes_another_there(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path)
    home.create()
    home.identity.touch()
    assert why_taken(home).reason is Reason.HOME_DAMAGED
    assert why_no_node(home).reason is Reason.HOME_DAMAGED
    assert "restore that file" in why_no_node(home).message


def test_settings_alone_take_a_home(tmp_path: Path) -> None:
    """Its identity was lost: what else is there must not be removed."""
    home = Home(tmp_path)
    home.create()
    home.config.touch()
    home.begun.touch()
    assert home.is_taken
    assert why_no_node(home).reason is Reason.HOME_DAMAGED
    assert "new identity in another" in why_no_node(home).message


def test_what_was_begun_takes_no_home_until_it_is_whole(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    home.identity.touch()
    home.begun.touch()
    assert not home.is_taken
    assert "run it again" in why_no_node(home).message
    # It was stopped just before it would have said so.
    home.config.touch()
    home.check()
    assert not home.begun.exists()
    with Home(tmp_path / "other").making():
        assert Home(tmp_path / "other").begun.exists()
    assert not Home(tmp_path / "other").begun.exists()


def test_of_two_that_make_a_node_at_once_the_second_finds_it_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    lock = Home.lock

    @contextmanager
    def after_another(self: Home) -> Iterator[None]:
        with lock(self):
            self.config.write_text("made by the other")
            yield

    monkeypatch.setattr(Home, "lock", after_another)
    with pytest.raises(ClusterError) as caught, home.making():
        pass
    assert caught.value.reason is Reason.HOME_EXISTS
    assert home.config.read_text() == "made by the other"
    assert not home.begun.exists()


def test_a_home_whose_node_runs_is_taken_and_not_only_in_use(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    home.config.touch()
    with home.lock():
        assert why_taken(home).reason is Reason.HOME_EXISTS


@pytest.mark.parametrize("there", ["note", ".hidden", "content"])
def test_a_directory_with_something_else_is_refused_and_not_touched(
    tmp_path: Path, there: str
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / there).mkdir()
    with pytest.raises(ClusterError) as caught, Home(tmp_path).making():
        pass
    assert caught.value.reason is Reason.HOME_EXISTS
    assert there in caught.value.message
    assert "--home" in caught.value.message
    assert [each.name for each in tmp_path.iterdir()] == [there]
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("left", ["lock", ".begun.json.0a1b2c3d.tmp", "lost+found", "begun.json"])
def test_what_was_stopped_early_goes_on_and_a_mounted_disk_is_empty(
    tmp_path: Path, left: str
) -> None:
    (tmp_path / left).touch()
    with Home(tmp_path).making():
        pass
    if left == "begun.json":  # Whatever else is there then is ours.
        (tmp_path / left).touch()
        (tmp_path / "content").mkdir()
        with Home(tmp_path).making():
            pass


def test_a_lock_names_its_holder_and_nobody_before_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (tmp_path / "lock").write_text("12345678901234567890")
    with home.lock():
        assert (tmp_path / "lock").read_text() == str(os.getpid())
        with pytest.raises(ClusterError, match=f"process {os.getpid()} is"), home.lock():
            pass
    with home.lock():
        pass


def test_a_home_that_is_made_in_an_open_directory_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    home = Home(tmp_path)
    home.create()
    for directory in (home.path, home.tls, home.raft, home.content, home.state):
        assert directory.stat().st_mode & 0o777 == 0o700
