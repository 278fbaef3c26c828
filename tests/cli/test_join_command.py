"""`join`: where it asks, whom it replaces, and what it asks before that."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ipfs_cluster_node.adapters.keys.tokens import mint_token
from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.node import joining, replacing

TOKEN = str(mint_token("ab" * 32))


class Joins:
    """What `join` asked for, and whom that would replace."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.asked: dict[str, Any] = {}
        self.replaced: list[tuple[Any, ...]] = []
        self.confirmed: list[bool] = []

    def __call__(self, *arguments: str, answer: str = "") -> Result:
        words = ["join", *arguments, "--home", str(self.home), "--name", "n"]
        return CliRunner().invoke(main, words, input=answer)

    async def join_at_any(self, _home: Any, settings: Any, **asked: Any) -> Any:
        self.asked = asked
        if asked["replace_node"] is not None:
            await asked["replace_node"](Role.MASTER)
        return SimpleNamespace(
            cluster_id="i", cluster_name="c", node_id="x", role="master", recovery_passphrase=""
        )

    async def replace_node(self, _client: Any, _home: Any, *who: Any, **how: Any) -> None:
        if "confirm" in how:
            how["confirm"]("master n (x), which is dead")
        self.replaced.append((*who, "confirm" in how))


@pytest.fixture
def joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Joins:
    made = Joins(tmp_path / "home")
    monkeypatch.setattr(joining, "join_at_any", made.join_at_any)
    monkeypatch.setattr(replacing, "replace_node", made.replace_node)
    return made


@pytest.mark.parametrize(
    ("token", "more", "enrolment"),
    [
        (f"{TOKEN}@a.example:1,b.example:2", [], ("a.example:1", "b.example:2")),
        (f"{TOKEN}@a.example:1", ["--enrolment", "c.example:3"], ("c.example:3",)),
        (TOKEN, ["--enrolment", "c.example:3", "--enrolment", "d:4"], ("c.example:3", "d:4")),
    ],
)
def test_it_joins_where_it_is_told_else_where_the_token_says(
    joins: Joins, token: str, more: list[str], enrolment: tuple[str, ...]
) -> None:
    for given, text in ((token, ""), ("-", f"{token}\n")):
        done = joins(given, *more, answer=text)
        assert done.exit_code == 0, done.output
        assert joins.asked["token"] == TOKEN
        assert joins.asked["enrolment"] == enrolment
        assert joins.asked["replace_node"] is None


def test_a_token_that_names_no_master_needs_one(joins: Joins) -> None:
    done = joins(TOKEN)
    assert done.exit_code != 0
    assert "--enrolment MASTER:9095" in done.output
    assert joins.asked == {}
    assert TOKEN not in done.output


@pytest.mark.parametrize(
    ("flags", "answer", "replaced"),
    [
        (["--replace", "--yes"], "", [("n", Role.MASTER, False)]),
        (["--replace", "--yes", "--change-role"], "", [("n", None, False)]),
        (["--replace"], "y\n", [("n", Role.MASTER, True)]),
        (["--replace"], "n\n", []),
        (["--replace"], "", []),
    ],
)
def test_a_node_is_replaced_as_it_is_told_and_once_that_is_confirmed(
    joins: Joins, flags: list[str], answer: str, replaced: list[tuple[Any, ...]]
) -> None:
    done = joins(f"{TOKEN}@a.example:1", *flags, answer=answer)
    assert (done.exit_code == 0) is bool(replaced), done.output
    assert joins.replaced == replaced
    asked = "Remove master n (x), which is dead, for good" in done.output
    assert asked is ("--yes" not in flags)


def test_a_change_of_role_is_of_a_node_that_is_replaced(joins: Joins) -> None:
    done = joins(f"{TOKEN}@a.example:1", "--change-role")
    assert done.exit_code == 2
    assert "--change-role is for --replace" in done.output
    assert joins.asked == {}
