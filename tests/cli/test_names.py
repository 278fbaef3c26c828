"""Names, short ids and aliases of commands on the command line."""

import sys
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cli import cluster_commands, task_commands
from ipfs_cluster_node.cli.groups import OTHER_NAMES, Group
from ipfs_cluster_node.cli.ids import shown_ids, shown_nodes
from ipfs_cluster_node.cli.main import COMMANDS, MEANT, main
from ipfs_cluster_node.client.lookups import Lookups
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.core.names import TASK
from ipfs_cluster_node.core.views import ListedJoiner, ListedNode, ListedTask, TaskStatus
from tests.support.commands import invoke

FIRST, SECOND = Identity.create(), Identity.create()
NODES = [
    ListedNode(node_id=FIRST.node_id, name="w1"),
    ListedNode(node_id=SECOND.node_id, name="w2"),
]


async def list_nodes(**_: Any) -> list[ListedNode]:
    return NODES


class Members:
    """A client that records which members it removes."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.lookups = Lookups(self)  # type: ignore[arg-type]
        self.list_nodes = list_nodes

    async def list_certificates(self, **_: Any) -> list[Any]:
        return []

    async def remove_node(self, node_id: str, **_: Any) -> None:
        self.removed.append(node_id)


@pytest.mark.parametrize(
    "named", ["w1", FIRST.node_id, FIRST.node_id[8:16]], ids=["name", "id", "beginning"]
)
@pytest.mark.parametrize("confirmed", [True, False])
def test_a_removal_asks_by_name_and_id(
    monkeypatch: pytest.MonkeyPatch, named: str, *, confirmed: bool
) -> None:
    client = Members()
    asked: list[str] = []

    def confirm(text: str, **_: Any) -> None:
        asked.append(text)
        if not confirmed:
            raise click.Abort

    monkeypatch.setattr(click, "confirm", confirm)
    done = invoke(monkeypatch, cluster_commands, client, "node", "remove", named)
    assert asked == [f"Remove w1 ({FIRST.node_id}) for good?"]
    assert client.removed == ([FIRST.node_id] if confirmed else [])
    assert (f"w1 ({FIRST.node_id}) is removed" in done.output) == confirmed


def test_a_removal_by_name_asks_nothing_with_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Members()
    done = invoke(monkeypatch, cluster_commands, client, "node", "rm", "w2", "--yes", "--json")
    assert client.removed == [SECOND.node_id]
    assert SECOND.node_id in done.output


@pytest.mark.parametrize(
    ("given", "status"),
    [(FIRST.node_id, 0), (FIRST.node_id[:20], 0), (FIRST.node_id[8:16], 0), ("w1", 5)],
    ids=["id", "long beginning", "beginning", "name"],
)
def test_a_joiner_is_approved_by_its_id_and_never_by_the_name_it_gives_itself(
    monkeypatch: pytest.MonkeyPatch, given: str, status: int
) -> None:
    decided: list[str] = []

    async def list_joiners() -> list[ListedJoiner]:
        return [ListedJoiner(did=each.did, name="w1", role=Role.WORKER) for each in (FIRST, SECOND)]

    async def decide_joiner(joiner: ListedJoiner, *, approved: bool) -> None:
        decided.append(joiner.node_id)

    client = SimpleNamespace(list_joiners=list_joiners, decide_joiner=decide_joiner)
    done = invoke(monkeypatch, cluster_commands, client, "node", "approve", given)
    assert done.exit_code == status, done.output
    assert decided == ([FIRST.node_id] if status == 0 else [])
    if status == 0:
        assert f"w1 ({FIRST.node_id}) may join as worker" in done.output


def test_ids_are_short_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ["a" * 20, "b" * 20]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert shown_ids(TASK, whole, wide=False)(whole[0]) == "a" * 8
    assert shown_ids(TASK, whole, wide=True)(whole[0]) == whole[0]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert shown_ids(TASK, whole, wide=False)(whole[0]) == whole[0]


@pytest.mark.asyncio
async def test_nodes_are_shown_by_name_unless_two_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    client: Any = SimpleNamespace(list_nodes=list_nodes)
    shown = await shown_nodes(client, wide=False)
    assert shown(FIRST.node_id) == "w1"
    assert shown("") == ""
    gone = Identity.create().node_id
    assert shown(gone) == gone[:16]

    async def twins(**_: Any) -> list[ListedNode]:
        return [ListedNode(node_id=each.node_id, name="w") for each in (FIRST, SECOND)]

    shown = await shown_nodes(SimpleNamespace(list_nodes=twins), wide=False)
    assert shown(FIRST.node_id) == FIRST.node_id[:16]

    async def denied(**_: Any) -> list[ListedNode]:
        raise ClusterError(Reason.NOT_DELEGATED, "no")

    shown = await shown_nodes(SimpleNamespace(list_nodes=denied), wide=False)
    assert shown(FIRST.node_id) == FIRST.node_id[:16]
    assert (await shown_nodes(client, wide=True))(FIRST.node_id) == FIRST.node_id


def test_a_table_in_a_pipe_has_whole_ids_and_costs_no_further_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def list_tasks(**_: Any) -> list[ListedTask]:
        return [ListedTask(task_id="a" * 20, status=TaskStatus(node_id=FIRST.node_id))]

    client = SimpleNamespace(list_tasks=list_tasks)
    for words in (["task", "list"], ["task", "ps"], ["ps"], ["task", "ls", "--wide"]):
        done = invoke(monkeypatch, task_commands, client, *words)
        assert "a" * 20 in done.output, done.output
        assert FIRST.node_id in done.output


@pytest.mark.parametrize("word", sorted(MEANT))
def test_what_other_tools_call_it_is_answered_with_commands_that_exist(word: str) -> None:
    assert word not in COMMANDS
    done = CliRunner().invoke(main, [word])
    assert done.exit_code == 2
    for meant in MEANT[word]:
        assert f"`{meant}`" in done.output
        group, _, name = meant.partition(" ")
        command = main.get_command(click.Context(main), group)
        assert command is not None
        if name:
            assert isinstance(command, click.Group)
            assert name in command.commands


def test_a_misspelled_command_is_answered_with_the_closest() -> None:
    for words, meant in ((["nod"], "`node`"), (["task", "lst"], "`task list`")):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 2
        assert meant in done.output
    assert "See --help" in CliRunner().invoke(main, ["zzzzz"]).output


def test_other_names_hide_no_command_and_are_in_no_help() -> None:
    for name in COMMANDS:
        group = main.get_command(click.Context(main), name)
        if not isinstance(group, click.Group):
            continue
        assert isinstance(group, Group), name
        for other, meant in OTHER_NAMES.items():
            first = next((each for each in (other, *meant) if each in group.commands), None)
            found = group.get_command(click.Context(group), other)
            assert found is (None if first is None else group.commands[first])
