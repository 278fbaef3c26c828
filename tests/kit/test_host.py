"""A kit's node without its process: where it joins and listens, what it waits for, how it ends."""

import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import Profile, ProfileEndpoint, profile_names
from ipfs_cluster_node.config.settings import (
    ClusterSection,
    NodeSection,
    NodeSettings,
    write_settings,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import Liveness, Role
from ipfs_cluster_node.kit import host
from ipfs_cluster_node.kit.host import PASSPHRASE_FILE, KitNode
from ipfs_cluster_node.kit.wanted import node_wanted
from ipfs_cluster_node.node import setup
from ipfs_cluster_node.node.setup import Made
from tests.support.kits import kit_environment

PEER = "12D3KooWDhWxtvTnyMeS5HYtW77Nkh8NG6Eb7pAkCsvjQkaN1pnH"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("x", flush=True)
time.sleep(60)
"""
"""Outlives SIGTERM, and the test: it ends only if it is killed."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in kit_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path / "kits" / "c"


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long a node waited each time; nobody does."""
    found: list[float] = []
    monkeypatch.setattr(host, "sleep", found.append)
    clock = SimpleNamespace(monotonic=lambda: sum(found))
    monkeypatch.setattr(host, "SYSTEM_CLOCK", clock)
    return found


class Node(KitNode):
    """One whose process is not run."""

    def __init__(self, role: str = "worker", **metadata: Any) -> None:
        super().__init__(node_wanted({"cluster_name": "c", **metadata}, role))
        self.did: list[str] = []

    def start(self) -> None:
        self.did.append("start")
        self.node_id, self.address = PEER, "127.0.0.1:1"

    def stop(self) -> None:
        self.did.append("stop")

    def _join(self) -> None:
        self.did.append("join")


class Asked:
    """A client of a cluster that knows of the node what `known` says, answer by answer."""

    def __init__(self, *known: tuple[Liveness, Sequence[str]], detail: str = "") -> None:
        self.known, self.detail = [*known], detail

    def list_nodes(self, *, timeout: timedelta) -> list[Any]:
        liveness, types = self.known[0] if len(self.known) == 1 else self.known.pop(0)
        node = SimpleNamespace(node_id=PEER, liveness=liveness, task_types=types)
        return [SimpleNamespace(node_id="other", liveness=Liveness.ALIVE, task_types=["a"]), node]

    def get_health(self, address: str, node_id: str, *, timeout: timedelta) -> Any:
        check = SimpleNamespace(name=host.HANDLERS_CHECK, detail=self.detail)
        return SimpleNamespace(checks=[check])


def beside(folder: Path, name: str, role: Role, port: int) -> None:
    """A node of the cluster that was made on this machine."""
    (folder / name).mkdir(parents=True)
    bind, enrolment = f"127.0.0.1:{port}", f"127.0.0.1:{port - 1000}"
    node = NodeSection(name=name, role=role, bind=bind, enrolment_bind=enrolment)
    settings = NodeSettings(node=node, cluster=ClusterSection(id="i", name="c"))
    (folder / name / "config.toml").write_text(write_settings(settings))


def test_a_node_is_a_member_once_it_is_alive_and_its_types_are_known(waited: list[float]) -> None:
    node = Node()
    node.start()
    client: Any = Asked((Liveness.DEAD, ["a"]), (Liveness.ALIVE, []), (Liveness.ALIVE, ["a", "b"]))
    node.until_member(client, ["a"])
    assert len(client.known) == 1
    assert len(waited) == 2
    dead: Any = Asked((Liveness.DEAD, ["a"]))
    with pytest.raises(ClusterError, match="a live member") as ended:
        node.until_member(dead)
    assert ended.value.reason is Reason.DEADLINE_EXCEEDED
    assert sum(waited) < host.READY_SECONDS_MAX + 1


NO_LEADER = ClusterError(Reason.NO_LEADER, "no master leads now; try again in a moment")


class Leaderless(Asked):
    """A client of a cluster whose leader is there after so many answers, if ever."""

    def __init__(self, answers: float, error: ClusterError = NO_LEADER) -> None:
        super().__init__((Liveness.ALIVE, []))
        self.answers, self.error = answers, error

    def list_nodes(self, *, timeout: timedelta) -> list[Any]:
        self.answers -= 1
        if self.answers >= 0:
            raise self.error
        return super().list_nodes(timeout=timeout)

    def get_health(self, address: str, node_id: str, *, timeout: timedelta) -> Any:
        if address in ("127.0.0.1:9501", "127.0.0.1:1"):
            return None
        raise ClusterError(Reason.UNREACHABLE, "nobody is there")


def test_a_node_waits_for_a_leader_and_names_the_masters_that_don_t_answer(
    folder: Path, waited: list[float]
) -> None:
    """Each failed start ended its node, so that two masters could hardly be started again."""
    node = Node("master", node_name="first")
    node.start()
    for name, port in (("second", 9500), ("third", 9501)):
        beside(folder, name, Role.MASTER, port)
        write_private(folder / name / "identity.key", Identity.create().pem())
    late: Any = Leaderless(100)
    node.until_member(late)
    never: Any = Leaderless(float("inf"))
    waited.clear()
    with pytest.raises(ClusterError) as ended:
        node.until_member(never, seconds=50.0)
    assert ended.value.reason is Reason.NO_LEADER
    assert "no master led for 50 s" in ended.value.message
    assert "node_name second at 127.0.0.1:9500" in ended.value.message
    assert "third" not in ended.value.message
    assert "first" not in ended.value.message
    assert "timeout=" in ended.value.message
    assert 49 < sum(waited) < 51
    gone: Any = Leaderless(1, ClusterError(Reason.UNREACHABLE, "nobody is there"))
    with pytest.raises(ClusterError, match="nobody is there"):
        node.until_member(gone)


def test_a_node_that_did_not_start_has_the_reason_of_its_last_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this start: what an earlier one said is in the same file."""
    node = KitNode(node_wanted({"cluster_name": "c"}, "worker"))
    node.home.path.mkdir(parents=True)
    (node.home.path / "log").write_text("error: an old one [HOME_IN_USE]\n")
    for said, reason, words in (
        ("error: it is taken [PORT_IN_USE]", Reason.PORT_IN_USE, "did not start: it is taken"),
        ("Killed [NOT_OURS]", Reason.INTERNAL, "Killed [NOT_OURS]"),
        ("", Reason.INTERNAL, "no word"),
    ):
        monkeypatch.setattr(sys, "executable", folder / "python")
        (folder / "python").write_text(f"#!/bin/sh\n[ -z '{said}' ] || echo '{said}' >&2\n")
        (folder / "python").chmod(0o700)
        with pytest.raises(ClusterError) as caught:
            node.start()
        assert caught.value.reason is reason
        assert caught.value.message.endswith(words)


@pytest.mark.parametrize("before", [None, b"old"])
def test_after_a_failure_the_cluster_knows_the_handlers_that_the_node_had(
    before: bytes | None, waited: list[float]
) -> None:
    node = Node()
    path = node.home.handlers / "kit_a.py"
    if before is not None:
        path.parent.mkdir(parents=True)
        path.write_bytes(before)
    # The node's restart makes it unknown for a while.
    client: Any = Asked((Liveness.ALIVE, []), (Liveness.ALIVE, ["kept"]), detail=f"{path}: bad")
    with pytest.raises(ClusterError, match="bad"):
        node.put_handler("kit_a.py", b"new", client, task_type="a", kept=["kept"])
    assert (path.read_bytes() if path.exists() else None) == before
    assert node.did == ["stop", "start"] * 2
    assert len(client.known) == 1


@pytest.mark.parametrize(
    ("metadata", "told", "expected"),
    [
        ({"enrolment": "e:1", "master_addresses": ["m:2"]}, ("t:3",), ["e:1"]),
        ({"master_addresses": ["m:2"]}, ("t:3", "t:4"), ["t:3", "t:4"]),
        ({"master_addresses": ["127.0.0.1:9500", "m:2"]}, (), ["127.0.0.1:8500", "m:9095"]),
        ({}, (), ["127.0.0.1:8500"]),
    ],
)
def test_a_node_joins_where_it_is_told_else_where_masters_are(
    folder: Path, metadata: dict[str, Any], told: tuple[str, ...], expected: list[str]
) -> None:
    beside(folder, "master", Role.MASTER, 9500)
    beside(folder, "another", Role.WORKER, 9600)
    assert [*Node(**metadata)._enrolments(told)] == expected


def test_a_master_makes_the_cluster_only_if_it_knows_of_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: folder / name for name in ("ca", "certificate", "key")}
    made = Made(
        cluster_id="i",
        cluster_name="c",
        node_id=NodeId(PEER),
        role="master",
        profile=Profile(endpoints=(ProfileEndpoint("m:1", PEER),), **files),
        recovery_passphrase="twelve words",
    )

    def init_cluster(home: Home, *_: Any, passphrase_file: Path, **_how: Any) -> Made:
        assert passphrase_file == home.path / PASSPHRASE_FILE
        return made

    monkeypatch.setattr(setup, "init_cluster", init_cluster)
    for metadata in ({"master_addresses": ["m:1"]}, {"join_token": "t"}):
        node = Node("master", **metadata)
        node.make()
        assert node.did == ["join"]
    first = Node("master")
    first.make()
    assert first.did == []
    assert profile_names() == ("c",)
    first.make()  # The files that the profile named are gone, and its name is free.
    assert profile_names() == ("c",)
    beside(folder, "other", Role.WORKER, 9600)
    second = Node("master", node_name="second")
    second.make()
    assert second.did == ["join"]


def test_the_operator_s_profile_names_the_masters_alone(folder: Path) -> None:
    beside(folder, "master", Role.MASTER, 9500)
    beside(folder, "another", Role.WORKER, 9600)
    masters = {}
    for name in ("master", "another"):
        identity = Identity.create()
        write_private(folder / name / "identity.key", identity.pem())
        masters[name] = identity.node_id
    (folder / "master" / "client").mkdir()
    for name in setup.CLIENT_FILES:
        (folder / "master" / "client" / name).write_text("x")
    profile = Node().profile()
    assert [(each.address, each.node_id) for each in profile.endpoints] == [
        ("127.0.0.1:9500", masters["master"])
    ]
    assert profile.certificate.parent == folder / "master" / "client"


def test_no_port_of_a_stopped_node_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "is_free", lambda _port: True)
    first = Node("master", node_name="first")._settings()
    assert (first.bind, first.enrolment_bind) == ("127.0.0.1:9096", "127.0.0.1:9095")
    beside(folder, "first", Role.MASTER, 9096)
    beside(folder, "second", Role.MASTER, 10_095)  # Lets joiners in at 9095.
    third = Node("master", node_name="third")._settings()
    ports = {each.rpartition(":")[2] for each in (third.bind, third.enrolment_bind)}
    assert len(ports) == 2
    assert not ports & {"9096", "8096", "10095", "9095"}


def test_a_node_knows_the_masters_named_with_a_peer_id(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_how: Any) -> None:
        commands.append(command)
        raise OSError

    monkeypatch.setattr(subprocess, "Popen", run)
    named = [f"/ip4/10.0.0.1/tcp/9096/p2p/{PEER}", "10.0.0.2:9096"]
    for role in ("worker", "master"):
        node = Node(role, master_addresses=named)
        node.home.path.mkdir(parents=True)
        with pytest.raises(OSError):
            KitNode.start(node)
    beside(folder, "moved", Role.MASTER, 9500)
    identity = Identity.create()
    write_private(folder / "moved" / "identity.key", identity.pem())
    with pytest.raises(OSError):
        KitNode.start(Node("worker"))
    assert f"--master={identity.node_id}@127.0.0.1:9500" in commands.pop()
    of_worker, of_master = commands
    assert "--end-with-input" in of_worker
    assert [each for each in of_worker if each.startswith("--master")] == [
        f"--master={PEER}@10.0.0.1:9096"
    ]
    assert not any(each.startswith("--master") for each in of_master)


def test_a_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "STOP_SECONDS_MAX", 0.1)
    node = Node()
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert host._first_line(process, 30.0) == b"x\n"
    node._process = process
    KitNode.stop(node)
    assert node.pid is None
    assert process.returncode is not None
    assert process.stdin is not None
    assert process.stdin.closed
    KitNode.stop(node)


def test_a_process_that_says_nothing_is_not_waited_for() -> None:
    code = "import time; time.sleep(60)"  # Longer than the test may take: it is killed below.
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    began = time.monotonic()
    try:
        assert host._first_line(process, 0.05) == b""
    finally:
        process.kill()
        process.communicate()
    assert time.monotonic() - began < 10
