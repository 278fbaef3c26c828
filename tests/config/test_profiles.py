"""Client profiles, and the home directory of a node."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import (
    PROFILE_VARIABLE,
    PROFILES_VARIABLE,
    Profile,
    ProfileEndpoint,
    check_profile_name,
    chosen_profile,
    free_profile_name,
    load_profile,
    profile_names,
    remove_profile,
    save_profile,
    updating_profiles,
    use_profile,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "deep" / "profiles.toml"
    monkeypatch.setenv(PROFILES_VARIABLE, str(path))
    return path


def profile_in(directory: Path, *addresses: str) -> Profile:
    return Profile(
        endpoints=tuple(ProfileEndpoint(address, "12D3Koo") for address in addresses),
        ca=directory / "ca.pem",
        certificate=directory / "client.pem",
        key=directory / "client.key",
    )


@pytest.mark.parametrize("name", ["default", "ä b", 'a"]\n[x', "\U0001f600", "\x7f", "", "a.b"])
def test_a_profile_reads_back_whatever_its_name(profiles: Path, tmp_path: Path, name: str) -> None:
    made = profile_in(tmp_path / 'odd "\U0001f600\\ folder', "a:1", "[::1]:2")
    save_profile("other", profile_in(tmp_path, "b:1"))
    save_profile(name, made)
    assert load_profile("other") == profile_in(tmp_path, "b:1")
    if name:
        assert load_profile(name) == made
    assert profiles.stat().st_mode & 0o777 == 0o600


WRITER = """
import sys
from pathlib import Path
from ipfs_cluster_node.config.profiles import Profile, ProfileEndpoint, save_profile
at = Path("/nowhere")
for number in range(20):
    endpoints = (ProfileEndpoint("a:1", "12D3Koo"),)
    save_profile(f"{sys.argv[1]}-{number}", Profile(endpoints=endpoints, ca=at, certificate=at, key=at))
"""


def test_profiles_that_are_written_at_once_are_all_kept(profiles: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name]) for name in ("a", "b", "c")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(profile_names()) == 60
    assert profiles.with_name("profiles.toml.lock").stat().st_mode & 0o777 == 0o600


def test_a_lock_that_another_process_keeps_ends_in_an_error(
    profiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipfs_cluster_node.config.profiles.LOCK_SECONDS_MAX", 0.0)
    profiles.parent.mkdir()
    with profiles.with_name("profiles.toml.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ClusterError) as caught:
            save_profile("a", profile_in(tmp_path, "a:1"))
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert "profiles.toml.lock" in caught.value.message
    with updating_profiles():  # What belongs together is locked as a whole.
        save_profile(free_profile_name("c"), profile_in(tmp_path, "a:1"))
    assert profile_names() == ("default",)


def test_the_profile_of_another_cluster_keeps_its_name(profiles: Path, tmp_path: Path) -> None:
    assert free_profile_name("c") == "default"
    save_profile("default", profile_in(tmp_path, "a:1"))
    assert free_profile_name("c") == "default"  # Its certificate is gone.
    (tmp_path / "client.pem").touch()
    assert free_profile_name("c") == "c"
    save_profile("c", profile_in(tmp_path, "a:1"))
    assert free_profile_name("c") == "c-2"
    remove_profile("default")
    remove_profile("absent")
    assert free_profile_name("c") == "default"


def test_a_profile_that_is_in_use_is_not_written_over_and_a_link_stays_one(
    profiles: Path, tmp_path: Path
) -> None:
    check_profile_name(None)
    check_profile_name("c")
    save_profile("c", profile_in(tmp_path, "a:1"))
    check_profile_name("c")  # Its certificate is gone.
    (tmp_path / "client.pem").touch()
    with pytest.raises(ClusterError, match="--profile-name"):
        check_profile_name("c")
    kept = tmp_path / "kept.toml"
    profiles.rename(kept)
    profiles.symlink_to(kept)
    save_profile("d", profile_in(tmp_path, "b:1"))
    assert profiles.is_symlink()
    assert profile_names() == ("c", "d")
    kept.write_text("no toml")
    for name in (None, "x"):
        with pytest.raises(ClusterError, match="can't be read"):
            check_profile_name(name)


def test_a_profile_is_used_that_was_chosen_by_name_environment_or_file(
    profiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("default", "a", "b"):
        save_profile(name, profile_in(tmp_path, f"{name}:1"))

    def used(name: str | None = None) -> str:
        assert load_profile(name).endpoints[0].address == f"{chosen_profile(name)}:1"
        return chosen_profile(name)

    assert used() == "default"
    use_profile("a")
    assert used() == "a"
    # It stays when others are written, the same one too.
    save_profile("c", profile_in(tmp_path, "c:1"))
    save_profile("a", profile_in(tmp_path, "a:1"))
    assert used() == "a"
    monkeypatch.setenv(PROFILE_VARIABLE, "b")
    assert used() == "b"
    assert used("default") == "default"
    monkeypatch.delenv(PROFILE_VARIABLE)
    with pytest.raises(ClusterError) as caught:
        use_profile("none")
    assert caught.value.reason is Reason.CONFIG_INVALID
    assert used() == "a"
    remove_profile("b")
    assert used() == "a"
    remove_profile("a")
    assert used() == "default"
    assert profile_names() == ("c", "default")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "can't be read"),
        ("profiles = 3", "can't be read"),
        ("default = 3", "can't be read"),
        ("[profiles]\nx = 1", "correct or recreate"),
        ("[profiles.x]", "correct or recreate"),
        ("[profiles.x]\nca = 'a'\ncertificate = 'b'\nkey = 'c'", "'endpoints'"),
        ("[profiles.x]\nendpoints = [1]\nca = 'a'\ncertificate = 'b'\nkey = 'c'", "correct"),
        ("[profiles.x]\nendpoints = []\nca = 1\ncertificate = 'b'\nkey = 'c'", "correct"),
        ("[profiles.x]\nendpoints = []\nca = 'a'\ncertificate = 'b'\nkey = 'c'", "no endpoint"),
        ("[profiles.y]", "there are y"),
        ("", "there are none"),
    ],
)
def test_a_bad_file_is_refused_and_the_fault_named(profiles: Path, text: str, words: str) -> None:
    profiles.parent.mkdir()
    profiles.write_text(text)
    with pytest.raises(ClusterError) as caught:
        load_profile("x")
    assert caught.value.reason is Reason.CONFIG_INVALID
    assert words in caught.value.message


def test_a_home_is_for_one_process_and_free_when_that_ends(tmp_path: Path) -> None:
    home = Home(tmp_path / "h")
    home.create()
    script = (
        "import sys; from pathlib import Path; from ipfs_cluster_node.config.home import Home\n"
        "with Home(Path(sys.argv[1])).lock(): print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(home.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(ClusterError) as caught, home.lock():
            pass
        assert caught.value.reason is Reason.HOME_IN_USE
        assert str(other.pid) in caught.value.message
        other.kill()
        other.wait()
    with home.lock():
        assert (home.path / "lock").read_text() == str(os.getpid())


def test_a_home_is_made_once(tmp_path: Path) -> None:
    home = Home(tmp_path / "h")
    with pytest.raises(ClusterError) as caught:
        home.check()
    assert caught.value.reason is Reason.HOME_MISSING
    with home.making():
        home.create()
        home.config.touch()
    with pytest.raises(ClusterError) as caught, home.making():
        pass
    assert caught.value.reason is Reason.HOME_EXISTS


def test_what_was_never_made_as_a_whole_is_made_anew_and_nothing_else_is(tmp_path: Path) -> None:
    home = Home(tmp_path / "h")
    for stopped_at in (home.identity, home.seal_key, home.raft / "journal-1"):
        with pytest.raises(KeyboardInterrupt), home.making():
            home.create()
            stopped_at.write_text("of the attempt before")
            raise KeyboardInterrupt
        with pytest.raises(ClusterError, match="run it again") as caught:
            home.check()
        assert caught.value.reason is Reason.HOME_MISSING
    with home.making():
        assert not home.seal_key.exists()
        assert not home.raft.exists()
        with pytest.raises(ClusterError) as caught, home.making():
            pass  # By another process.
        assert caught.value.reason is Reason.HOME_IN_USE
        home.create()
        for path in (home.identity, home.config):
            path.write_text("made")
    home.check()
    # A file that was lost is no beginning: what is there is somebody's node.
    home.config.unlink()
    for call in (home.check, lambda: home.making().__enter__()):
        with pytest.raises(ClusterError, match="restore that file") as caught:
            call()
        assert caught.value.reason is Reason.HOME_DAMAGED
    home.config.write_text("made")
    home.identity.unlink()
    with pytest.raises(ClusterError, match="restore it"):
        home.check()
    assert home.is_taken
