"""Shell completion: what it offers; it neither fails, prints nor takes long."""

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import CompletionItem

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cli import completing
from ipfs_cluster_node.cli.completing import COMPLETE_SECONDS_MAX, COMPLETED_MAX
from ipfs_cluster_node.cli.main import COMMANDS, main
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.config.profiles import Profile, ProfileEndpoint, save_profile
from ipfs_cluster_node.core.model import TaskState
from ipfs_cluster_node.core.views import ListedNode, ListedTask
from tests.support.commands import complete_in_shell
from tests.support.tls import enrol, make_ca

NODE_ID = Identity.create().node_id
NOTHING: Any = None
TAKES_AN_ID = {
    *("node_id", "task_id", "task_ids", "task_type", "cid", "did", "serial", "what", "audience"),
    *("nodes", "caller", "who", "profile"),
}
"""Parameters whose values the cluster, or this user's profiles, can list."""
NOT_COMPLETED = {
    ("token", "explain", "who"),
    ("token", "explain", "what"),
    ("auth", "explain", "what"),
}
"""A container, and command lines."""


class Answers:
    """A client of a cluster of many tasks and two nodes."""

    certificate = None

    async def list_nodes(self, **_: Any) -> list[ListedNode]:
        return [
            ListedNode(node_id=NODE_ID, name="w1", task_types=("noop", "echo")),
            ListedNode(node_id=NODE_ID[::-1], name="m1"),
        ]

    async def list_tasks(self, *, task_id_prefix: str, limit: int, **_: Any) -> list[ListedTask]:
        assert limit == COMPLETED_MAX
        return [ListedTask(task_id=f"{task_id_prefix}{n:04}") for n in range(2 * limit)]

    async def close(self) -> None:
        pass


@pytest.fixture
def _answering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "from_profile", lambda _name, **_: Answers())


def completed(complete: completing.Complete, begun: str) -> list[str]:
    context = click.Context(main, info_name="ipfs-cluster-node")
    return [item.value for item in complete(context, NOTHING, begun)]


@pytest.mark.usefixtures("_answering")
def test_names_are_completed_before_ids_and_ids_once_begun() -> None:
    assert completed(completing.completed_nodes, "") == ["w1", "m1"]
    assert completed(completing.completed_nodes, "w") == ["w1"]
    assert completed(completing.completed_nodes, NODE_ID[:10]) == [NODE_ID]
    assert completed(completing.completed_task_types, "") == ["echo", "noop"]


@pytest.mark.usefixtures("_answering")
def test_what_is_offered_is_bounded() -> None:
    assert len(completed(completing.completed_tasks, "ab")) == COMPLETED_MAX


@pytest.mark.parametrize("begun", ["a b", "-x", "$(id)", "/"])
def test_what_no_id_begins_with_is_not_asked_for(begun: str) -> None:
    async def fetch(*_: Any) -> list[CompletionItem[str]]:
        raise AssertionError

    assert completed(completing.completing(fetch), begun) == []


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError("x"), TimeoutError(), AssertionError("x")]
)
@pytest.mark.usefixtures("_answering")
def test_an_error_completes_nothing(error: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    async def fetch(*_: Any) -> list[CompletionItem[str]]:
        raise error

    assert completed(completing.completing(fetch), "a") == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("_answering")
def test_nothing_is_logged_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("ipfs_cluster_node.test")

    async def fetch(*_: Any) -> list[CompletionItem[str]]:
        log.warning("certificate not renewed")
        return [CompletionItem("a")]

    assert completed(completing.completing(fetch), "a") == ["a"]
    assert caplog.records == []
    log.warning("after it")
    assert len(caplog.records) == 1


def parameters(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Parameter]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from parameters(below, (*path, name))
    yield from (((*path, each.name or ""), each) for each in command.params)


def test_every_parameter_that_takes_an_id_is_completed() -> None:
    found = {
        path
        for path, each in parameters(main)
        if path[-1] in TAKES_AN_ID and each._custom_shell_complete is None
    }
    assert found == NOT_COMPLETED
    assert COMMANDS.keys() >= {path[0] for path in found}


def test_states_are_completed_without_a_call() -> None:
    done = complete_in_shell("bash", "task list --state ")
    assert {line.partition(",")[2] for line in done.stdout.split()} == set(map(str, TaskState))


def profile_of(address: str, directory: Path) -> Profile:
    """A profile with a master at this address, and a new certificate."""
    member = enrol(make_ca(), is_node=False)
    files = [directory / name for name in ("ca.pem", "client.pem", "client.key")]
    contents = (member.tls.ca_pem, member.tls.certificate_pem, member.tls.key_pem)
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
        file.chmod(0o600)
    ca, certificate, key = files
    endpoint = ProfileEndpoint(address, NODE_ID)
    return Profile(endpoints=(endpoint,), ca=ca, certificate=certificate, key=key)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("answer", ["refused", "silent", "no profile", "damaged profiles"])
def test_without_a_cluster_nothing_is_completed_and_nothing_printed(
    shell: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = tmp_path / "profiles.toml"
    monkeypatch.setenv("IPFS_CLUSTER_NODE_PROFILES", str(profiles))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if answer == "silent":
            silent.listen()
        if answer == "damaged profiles":
            profiles.write_text("[")
        elif answer != "no profile":
            save_profile("default", profile_of(f"127.0.0.1:{silent.getsockname()[1]}", tmp_path))
        began = time.monotonic()
        done = complete_in_shell(shell, "task get ab")
        seconds = time.monotonic() - began
    assert (done.returncode, done.stdout.strip(), done.stderr) in ((0, "", ""), (1, "", ""))
    # Of which the start of Python takes most on a busy machine.
    assert seconds < COMPLETE_SECONDS_MAX + 20
