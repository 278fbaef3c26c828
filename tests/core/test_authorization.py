"""Presets of clients."""

import pytest

from ipfs_cluster_node.core.authorization import (
    GRANTS,
    TASK_READ,
    WITHIN_NAMESPACE,
    check_grant_namespace,
    grant_text,
    preset,
)
from ipfs_cluster_node.core.ucan.commands import covers
from ipfs_cluster_node.core.ucan.minting import check_mintable
from ipfs_cluster_node.core.ucan.policies import Evaluation, parse_policy
from ipfs_cluster_node.core.ucan.profiles import PRODUCT


def allows(namespace: str, asked: str) -> bool:
    policy = parse_policy(dict(preset("reader", namespace))[TASK_READ], profile=PRODUCT)
    check_mintable(policy)
    return Evaluation(steps_max=10).failing(policy, {"namespace": asked}) is None


@pytest.mark.parametrize(
    ("namespace", "inside", "outside"),
    [
        ("team-a/*", ["team-a/x", "team-a/x/y"], ["team-a", "team-ab/x", "*", "default"]),
        ("team-a", ["team-a"], ["team-a/x", "team-ab", "*"]),
    ],
)
def test_a_preset_is_limited_to_a_namespace(
    namespace: str, inside: list[str], outside: list[str]
) -> None:
    assert [allows(namespace, each) for each in inside] == [True] * len(inside)
    assert [allows(namespace, each) for each in outside] == [False] * len(outside)


@pytest.mark.parametrize("grant", WITHIN_NAMESPACE)
def test_a_limited_preset_is_part_of_the_whole_one(grant: str) -> None:
    limited = preset(grant, "team-a")
    assert limited
    for command, _ in limited:
        assert any(covers(whole, command) for whole in GRANTS[grant]), command
    assert {str(command) for command, policy in limited if not policy} == {
        "/cluster/member/list",
        "/health/read",
    }


def test_what_was_revoked_of_a_preset_is_left_out() -> None:
    commands = [command for command, _ in preset("reader", ended=("/config/read",))]
    assert commands == [each for each in GRANTS["reader"] if each != "/config/read"]
    assert preset("none") == []


@pytest.mark.parametrize("namespace", ["*", "team-*", "/*", "team-a/", "team-a/../x", "a/*/*"])
def test_a_limit_that_is_no_namespace_is_refused(namespace: str) -> None:
    with pytest.raises(ValueError, match="a namespace such as"):
        check_grant_namespace("reader", namespace)


@pytest.mark.parametrize("grant", ["operator", "none", ""])
def test_a_preset_without_such_a_limit_takes_none(grant: str) -> None:
    with pytest.raises(ValueError, match="user or reader only"):
        check_grant_namespace(grant, "team-a")


def test_a_preset_as_people_read_it() -> None:
    assert grant_text("reader", "team-a/*") == "reader in team-a/*"
    assert (grant_text("user", ""), grant_text("", "")) == ("user", "")
