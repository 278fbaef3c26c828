"""Settings over their service: plans, the way back, and versions, of what the caller may read."""

from typing import Any, cast

import pytest

from ipfs_cluster_node.access.context import set_permissions
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.proposals import ConfigPlan, ConfigProposal
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.settings import CHANGES_MAX
from ipfs_cluster_node.core.state_events import Bookmark, Deletions
from ipfs_cluster_node.services.membership import MembershipServicer
from ipfs_cluster_node.v1 import membership_pb2 as pb
from tests.support.members import Leader
from tests.support.virtual_time import virtual_time
from tests.support.watched_masters import EVERYTHING, Rights

NOTHING: Any = None
OF_A = Rights(frozenset({"a"}), lambda args: args["path"] == "user/a")


class Served:
    """A leader's settings, and a client of its service."""

    def __init__(self) -> None:
        self.leader = Leader()
        self.servicer = MembershipServicer(self.leader.members, cast("Any", self.leader), NOTHING)
        self.client = Client(NOTHING)
        self.client._unary = self._answered  # type: ignore[method-assign,assignment]
        set_permissions(EVERYTHING)

    async def _answered(self, request: Any, _timeout: Any) -> Any:
        match request:
            case pb.PlanConfigRequest():
                return await self.servicer.PlanConfig(ConfigPlan.of(request), NOTHING)
            case pb.ProposeConfigRequest():
                return await self.servicer.ProposeConfig(ConfigProposal.of(request), NOTHING)
        return await self.servicer.ListConfigVersions(request, NOTHING)

    @property
    def values(self) -> dict[str, str]:
        return dict(self.leader.committed.settings.changed)

    async def versions(self, **asked: Any) -> list[dict[str, str]]:
        """What each version set, the newest first."""
        found = await self.client.list_config_versions(**asked)
        return [{each.key: each.new_value for each in v.changes} for v in found]


@virtual_time
async def test_a_plan_changes_nothing_at_the_leader() -> None:
    served = Served()
    await served.client.propose_config({"user.a": "1"})
    before = served.leader.committed.data()
    planned = await served.client.plan_config({"user.a": "", "node_lease": "0.1m"})
    assert [(p.key, p.new_value, p.changes) for p in planned] == [
        ("node_lease", "6s", False),
        ("user.a", "", True),
    ]
    await served.client.plan_revert(0)
    assert served.leader.committed.data() == before
    assert served.leader.committed.settings["node_lease"] == 6000


@virtual_time
async def test_expected_values_are_taken_in_any_unit() -> None:
    served = Served()
    for ask in (served.client.plan_config, served.client.propose_config):
        await ask({"user.a": "1"}, if_values={"node_lease": "0.1m"})
        with pytest.raises(ClusterError) as refused:
            await ask({"user.a": "2"}, if_values={"node_lease": "0.2m"})
        assert refused.value.reason is Reason.CONFIG_CHANGED
    assert served.values["user.a"] == "1"


@virtual_time
async def test_a_revert_is_refused_if_a_setting_changes_after_its_plan() -> None:
    served = Served()
    for value in ("1", "2"):
        await served.client.propose_config({"user.a": value})
    answered = served.client._unary

    async def with_another_between(request: Any, timeout: Any) -> Any:
        answer = await answered(request, timeout)
        if isinstance(request, pb.PlanConfigRequest):
            served.leader.commit(c.ProposeConfig(values={"user.a": "3"}, with_version=True))
        return answer

    served.client._unary = with_another_between  # type: ignore[method-assign]
    with pytest.raises(ClusterError) as refused:
        await served.client.revert_config(1)
    assert refused.value.reason is Reason.CONFIG_CHANGED
    assert served.values["user.a"] == "3"


@virtual_time
async def test_a_revert_of_more_than_one_proposal_may_change_says_the_way() -> None:
    """It was planned, and then refused as a bad request that named no way."""
    served = Served()
    keys = [f"user.{letter}{n:03}" for letter in "ab" for n in range(CHANGES_MAX * 6 // 10)]
    half = len(keys) // 2
    await served.client.propose_config(dict.fromkeys(keys[:half], "1"))
    then = served.values
    await served.client.propose_config(dict.fromkeys(keys[:half], ""))
    await served.client.propose_config(dict.fromkeys(keys[half:], "1"))
    for ask in (served.client.plan_revert, served.client.revert_config):
        with pytest.raises(ClusterError) as refused:
            await ask(1)
        assert refused.value.reason is Reason.INVALID_ARGUMENT
        assert f"{len(keys)} settings differ from version 1" in str(refused.value)
    for version in (2, 1):
        await served.client.revert_config(version)
    assert served.values == then


@virtual_time
async def test_versions_and_the_way_back_show_no_setting_that_may_not_be_read() -> None:
    served = Served()
    for values in ({"user.a": "1", "user.b": "secret"}, {"user.b": "2"}, {"user.a": "3"}):
        await served.client.propose_config(values)
    set_permissions(OF_A)
    assert await served.versions() == [{"user.a": "3"}, {"user.a": "1"}]
    assert await served.versions(version=2) == []
    assert await served.versions(key="user.b") == []
    assert [p.key for p in await served.client.plan_revert(2)] == ["user.a"]
    with pytest.raises(ClusterError) as refused:
        await served.client.plan_revert(1)
    assert refused.value.reason is Reason.NOT_DELEGATED
    assert "user.b" not in str(refused.value)


@virtual_time
async def test_versions_are_found_by_key_number_and_page() -> None:
    served = Served()
    for n in range(5):
        await served.client.propose_config({f"user.{'ab'[n % 2]}": str(n)})
    assert await served.versions(key="user.b") == [{"user.b": "3"}, {"user.b": "1"}]
    assert await served.versions(after_version=4) == [{"user.a": "4"}]
    assert await served.versions(version=2) == [{"user.b": "1"}]
    request = pb.ListConfigVersionsRequest(page_size=2)
    numbers: list[list[int]] = []
    while not numbers or request.page_token:
        page = await served.servicer.ListConfigVersions(request, NOTHING)
        numbers.append([each.version for each in page.versions])
        request.page_token = page.next_page_token
    assert numbers == [[5, 4], [3, 2], [1]]


@virtual_time
async def test_a_watch_yields_each_version_once_in_order_and_of_its_keys_alone() -> None:
    served = Served()
    await served.client.propose_config({"user.a": "before"})
    mark = Bookmark(1, b"", 0)
    asked_after: list[int] = []
    listed = served.client.list_config_versions

    async def noted(**asked: Any) -> Any:
        asked_after.append(asked.get("after_version", -1))
        return await listed(**asked)

    served.client.list_config_versions = noted  # type: ignore[method-assign]

    async def watch_state(table: str, **asked: Any) -> Any:
        assert (table, asked["key_prefix"]) == ("config", "user.a")
        yield Deletions("config", ())
        yield mark
        yield mark  # Nothing changed.
        for values in ({"user.a": "1", "user.b": "1"}, {"user.b": "2"}, {"user.ab": "3"}):
            await served.client.propose_config(values)
        for event in (Deletions("config", ()), mark):
            yield event
        await served.client.propose_config({"user.b": "4"})
        for event in (Deletions("config", ()), mark, mark, Deletions("config", ()), mark):
            yield event

    served.client.watch_state = watch_state  # type: ignore[method-assign,assignment]
    found = [each.version async for each in served.client.watch_config("user.a")]
    assert found == [2, 4]
    assert asked_after == [-1, 1, 1, 4, 5]  # Not again what it knows, nor where nothing changed.
