"""Evaluating many items: each kind once, within a bound of steps, in slices."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from ipfs_cluster_node.access.context import Caller, CallerClass
from ipfs_cluster_node.access.permissions import DelegatedPermissions
from ipfs_cluster_node.access.turns import Turn, Turns, set_turn
from ipfs_cluster_node.codec.submissions import Submission
from ipfs_cluster_node.core.authorization import (
    ROW_UNKNOWN,
    Requirement,
    alternatives,
    content_args,
    task_args,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ucan.access import Access
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from tests.support.claims import ALICE, CLUSTER, claim, link, validation_context
from tests.support.large_cluster import cid_of
from tests.support.virtual_time import monotonic

ROWS = 20_000


def permissions(
    policy: list[Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[DelegatedPermissions, list[Any]]:
    """A caller's permissions under this policy, and the kinds that were evaluated."""
    judged: list[Any] = []
    judge = Access._judge

    def counted(self: Access, args: Any, evaluation: Any) -> Any:
        judged.append(args)
        return judge(self, args, evaluation)

    monkeypatch.setattr(Access, "_judge", counted)
    delegation = link(CLUSTER, ALICE, policy=policy)
    access = Access.found(claim(ALICE), [delegation], validation_context())
    assert access is not None
    command = access.claim.command
    client = Caller(ALICE, CallerClass.CLIENT)
    return DelegatedPermissions(
        client, command, {command: access}, lambda _command: access, lambda: 0
    ), judged


def rows() -> Any:
    for number in range(ROWS):
        [args] = alternatives(content_args(cid_of(number), None))
        yield {"table": "content", **ROW_UNKNOWN, **args}


def test_rows_are_judged_by_what_the_policies_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of a million files failed with DELEGATION_INVALID: each row was a kind of its own."""
    policy = [["or", [["==", ".table", "content"], ["not", ["==", ".role", "master"]]]]]
    reach_, judged = permissions(policy, monkeypatch)
    assert all(map(reach_.allows, rows()))
    assert len(judged) == 1


@pytest.mark.parametrize(
    "policy",
    [
        [["like", ".cid", "bafk*"]],
        [["any", ".[]", ["==", ".", "content"]]],
        [["not", ["==", ".", "x"]]],
    ],
)
def test_what_may_read_all_or_differs_is_judged_each(
    policy: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reach_, judged = permissions(policy, monkeypatch)
    assert all(reach_.allows(args) for args, _ in zip(rows(), range(50), strict=False))
    assert len(judged) == 50


@pytest.mark.asyncio
async def test_a_call_of_many_things_has_each_kind_judged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reach_, judged = permissions([["==", ".namespace", "*"]], monkeypatch)
    await reach_.check(Requirement(reach_.command, (task_args(None, ALICE) for _ in range(ROWS))))
    assert len(judged) == len(reach_.grants) == 1


@pytest.mark.asyncio
async def test_the_loop_goes_on_while_a_call_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """120 tasks with 64 inputs each took 8.5 s under a long policy, and the leader changed."""
    reach_, judged = permissions([["!=", ".cid", f"{n}"] for n in range(100)], monkeypatch)
    set_turn(Turn(Turns(monotonic), "a"))
    between = [0]
    over = asyncio.Event()

    async def others() -> None:
        while not over.is_set():
            between.append(len(judged))
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    args = (content_args(cid_of(n), None) for n in range(2000))
    await reach_.check(Requirement(reach_.command, args))
    over.set()
    await other
    assert len(judged) == 2000
    # Of 2000 none longer than a slice: even on a slow machine far fewer than all.
    assert max(b - a for a, b in pairwise(between)) < 1000


@pytest.mark.asyncio
async def test_all_items_of_a_call_share_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = [["!=", ".cid", f"{n}"] for n in range(100)]
    reach_, _ = permissions(policy, monkeypatch)
    reach_.steps_left = 1000
    with pytest.raises(ClusterError) as refused:
        await reach_.check(
            Requirement(reach_.command, (content_args(cid_of(n), None) for n in range(2000)))
        )
    assert refused.value.reason is Reason.DELEGATION_INVALID
    reach_, _ = permissions(policy, monkeypatch)
    reach_.steps_left = 1000
    for number, args in enumerate(rows()):
        try:
            assert reach_.allows(args)
        except ClusterError as error:
            assert error.reason is Reason.DELEGATION_INVALID
            assert 5 <= number <= 20
            return
    raise AssertionError("it went on for ever")


def test_a_submission_is_measured_before_any_of_it_is_read() -> None:
    wide = pb.TaskSpec(inputs=[pb.TaskInput(cid="no CID")] * 64)
    Submission([wide] * 256, "specs", "").check_size()
    with pytest.raises(ClusterError, match="16384 go at once"):
        Submission([wide] * 257, "specs", "").check_size()
    with pytest.raises(ClusterError, match="payloads have"):
        Submission([pb.TaskSpec(payload=bytes(1024 * 1024))] * 2, "specs", "").check_size()
