"""`config`: what it asks of the client, what it prints, and its exit statuses."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ipfs_cluster_node.cli import config_commands
from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.settings import SettingKind
from ipfs_cluster_node.core.views import (
    ConfigChange,
    ListedConfigVersion,
    ListedSetting,
    PlannedSetting,
)

LEASE = ListedSetting(
    key="node_lease",
    value="6s",
    description="its lease",
    kind=SettingKind.DURATION,
    default_value="5s",
    minimum_value="1s",
    maximum_value="5m",
)
PLANNED = [
    PlannedSetting(key="node_lease", value="6s", default_value="5s", changes=True),
    PlannedSetting(key="user.a", value="", new_value="1", changes=True),
    PlannedSetting(key="user.b", value="x", new_value="x"),
]
VERSION = ListedConfigVersion(
    version=7,
    proposed_at_ms=1_800_000_000_000,
    proposer_did="did:key:z6Mk",
    proposer_name="alice",
    changes=tuple(ConfigChange(key=f"user.k{n}", new_value=str(n)) for n in range(6)),
)


class Fake:
    """A client that keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.planned = PLANNED

    async def get_config(self, key: str = "") -> list[ListedSetting]:
        return [LEASE] if key in ("", LEASE.key) else []

    async def propose_config(self, values: Any, *, if_values: Any) -> None:
        self.asked.append((dict(values), dict(if_values)))

    async def plan_config(self, values: Any, *, if_values: Any) -> list[PlannedSetting]:
        self.asked.append((dict(values), dict(if_values)))
        return PLANNED

    async def plan_revert(self, version: int) -> list[PlannedSetting]:
        self.asked.append(("plan", version))
        return self.planned

    async def revert_config(self, version: int) -> list[PlannedSetting]:
        if version == 99:
            raise ClusterError(Reason.VERSION_NOT_FOUND, "there is no version 99")
        self.asked.append(("revert", version))
        return self.planned

    async def list_config_versions(self, **asked: Any) -> list[ListedConfigVersion]:
        self.asked.append(asked)
        return [VERSION] if asked["version"] in (0, VERSION.version) else []

    async def watch_config(self, key: str) -> Any:
        self.asked.append(key)
        yield VERSION


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()

    def run_client(_profile: str | None, operation: Any) -> Any:
        import asyncio

        return asyncio.run(operation(fake))

    monkeypatch.setattr(config_commands, "run_client", run_client)
    return fake


def config(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["config", *arguments])


def test_get_prints_one_value_alone_or_a_table_with_ranges(fake: Fake) -> None:
    assert config("get", "node_lease").output == "6s\n"
    assert json.loads(config("get", "--json").output) == {"node_lease": "6s"}
    table = config("get").output
    assert "node_lease\t6s\t5s\t1s\t5m\tits lease" in table
    missing = config("get", "node_leese")
    assert missing.exit_code == 5
    assert "did you mean node_lease?" in missing.output


def test_set_and_plan_take_expected_values(fake: Fake) -> None:
    arguments = ("node_lease", "6s", "user.a", "", "--if", "user.b=", "--if", "user.c=x=y")
    asked = ({"node_lease": "6s", "user.a": ""}, {"user.b": "", "user.c": "x=y"})
    assert config("set", *arguments).exit_code == 0
    planned = config("plan", *arguments)
    assert fake.asked == [asked, asked]
    assert planned.stdout.splitlines() == [
        "~ node_lease: 6s -> 5s (default)",
        "~ user.a: \N{EN DASH} -> 1",
        "= user.b: x -> x",
    ]
    assert planned.stderr == "2 changes, 1 key as before\n"
    assert config("set", "user.a", "1", "--if-value", "0").exit_code == 0
    assert fake.asked[-1] == ({"user.a": "1"}, {"user.a": "0"})
    documents = json.loads(config("plan", "user.a", "1", "--json").output)
    assert [each["key"] for each in documents] == ["node_lease", "user.a", "user.b"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set", "node_lease=6s"), "write `node_lease 6s`"),
        (("set", "node_lease"), "node_lease has no value"),
        (("set", "user.a", "1", "user.a", "2"), "a key is named twice"),
        (("plan", "user.a", "1", "--if", "user.b"), "--if takes KEY=VALUE"),
        (("plan", "user.a", "1", "--if", "=1"), "--if takes KEY=VALUE"),
        (("set", "user.a", "1", "--if", "user.a=1", "--if-value", "2"), "two values are expected"),
        (("set", "user.a", "1", "user.b", "1", "--if-value", "2"), "use --if KEY=VALUE"),
        (("revert", "-1"), "-1"),
        (("history", "0"), "0"),
    ],
)
def test_wrong_usage_says_what_is_right(fake: Fake, arguments: tuple[str, ...], said: str) -> None:
    done = config(*arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert fake.asked == []


def test_set_says_what_is_stored(fake: Fake) -> None:
    done = config("set", "task_retention", "2w", "user.a", "", "node_lease", "", "user.n", "-5")
    assert done.stdout.splitlines() == [
        "task_retention = 14d",
        "user.a is not set",
        "node_lease = 5s (default)",
        "user.n = -5",
    ]
    assert fake.asked[0][0]["user.n"] == "-5"


def test_a_watch_of_a_key_that_cant_be_is_refused(fake: Fake) -> None:
    refused = config("watch", "node_leese")
    assert refused.exit_code == 5
    assert "did you mean node_lease?" in refused.output
    assert fake.asked == []
    for key in ("node_lease", "user.a.b", "user"):
        assert config("watch", key).exit_code == 0


def test_history_lists_versions_or_shows_one(fake: Fake) -> None:
    listed = config("history", "--key", "user.k1", "--limit", "3")
    assert fake.asked == [{"key": "user.k1", "version": 0, "limit": 3}]
    assert (
        "7\t2027-01-15 08:00:00\talice\tuser.k0=0, user.k1=1, user.k2=2, user.k3=3 and 2 more"
        in listed.output
    )
    shown = config("history", "7").output.splitlines()
    assert shown[0] == "version 7  2027-01-15 08:00:00 UTC  alice (did:key:z6Mk)"
    assert shown[-1] == "  user.k5: \N{EN DASH} -> 5"
    [document] = json.loads(config("history", "7", "--json").output)
    assert document["version"] == "7"
    missing = config("history", "8")
    assert missing.exit_code == 5
    assert "VERSION_NOT_FOUND" in missing.output


def test_revert_plans_only_if_asked_to_and_says_if_there_is_nothing_to_do(fake: Fake) -> None:
    planned, done = config("revert", "3", "--plan"), config("revert", "3")
    assert fake.asked == [("plan", 3), ("revert", 3)]
    assert planned.stdout == done.stdout
    assert config("revert", "99").exit_code == 5
    fake.planned = []
    assert "nothing to change" in config("revert", "3").stderr


def test_watch_prints_each_version(fake: Fake) -> None:
    assert config("watch", "user.").output.startswith("version 7  ")
    assert fake.asked == ["user."]
    assert json.loads(config("watch", "--json").output)["version"] == "7"


def test_completion_offers_versions() -> None:
    import asyncio

    from ipfs_cluster_node.cli import completing

    async def list_config_versions(limit: int) -> list[ListedConfigVersion]:
        return [VERSION][:limit]

    client = SimpleNamespace(list_config_versions=list_config_versions)
    [item] = asyncio.run(completing._config_versions(client, ""))
    assert (item.value, item.help) == ("7", "user.k0 user.k1 user.k2 user.k3")
