"""Costly calls are limited, for each caller and in total, so that nobody crowds others out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from ipfs_cluster_node.access.context import Caller, CallerClass
from ipfs_cluster_node.access.rules import RULES_BY_METHOD, Rule
from ipfs_cluster_node.access.shares import Share, Shares
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.services.gate import Gate
from tests.support.calls import AbortedError, Anything, Context
from tests.support.ucan import actor
from tests.support.virtual_time import loop_clock

ONE, TWO, THREE = (actor(n).did for n in (1, 2, 3))
SHARE = Share("uploads", each_max=2, all_max=3)


def test_a_caller_has_its_share_and_all_together_theirs() -> None:
    shares = Shares()
    with ExitStack() as running:
        for caller in (ONE, ONE, TWO):
            running.enter_context(shares.taken(SHARE, caller))
        for caller, why in ((ONE, "you have 2 uploads"), (THREE, "this node has 3 uploads")):
            with pytest.raises(ClusterError, match=why) as refused, shares.taken(SHARE, caller):
                pass
            assert refused.value.reason is Reason.OVERLOADED
            assert refused.value.retry_after is not None
        with shares.taken(Share("lists", 1, 1), ONE), shares.taken(None, ONE):
            pass
    with shares.taken(SHARE, ONE), shares.taken(SHARE, ONE):
        pass
    assert not shares._of_caller


async def none() -> AsyncIterator[bytes]:
    nothing: list[bytes] = []
    for each in nothing:
        yield each


@pytest.mark.asyncio
async def test_slow_uploads_of_one_caller_are_refused_beyond_its_share() -> None:
    """300 calls of one user ran at once, and the leader changed."""
    method = "/ipfs_cluster_node.v1.ContentService/AddContent"
    ends, begun = asyncio.Event(), []

    async def upload(_requests: Any, _context: Any) -> str:
        begun.append(1)
        await ends.wait()
        return "done"

    callers = frozenset({CallerClass.CLIENT, CallerClass.NODE})
    rule = Rule(callers=callers, share=SHARE)
    gate = Gate(lambda context: context.caller, Anything(), {method: rule}, clock=loop_clock())  # type: ignore[attr-defined]
    handler: Any = grpc.stream_unary_rpc_method_handler(upload)
    gate.add_registered_method_handlers(
        "ipfs_cluster_node.v1.ContentService", {"AddContent": handler}
    )

    class Details:
        pass

    Details.method = method  # type: ignore[attr-defined]
    upload_to = gate.service(Details()).stream_stream  # type: ignore[arg-type]

    async def call(requests: Any, context: Context) -> Any:
        await upload_to(requests, context)
        return context.written

    client, node = Caller(ONE, CallerClass.CLIENT), Caller(TWO, CallerClass.NODE)
    running = [asyncio.create_task(call(none(), Context(caller=client))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(AbortedError, match="RESOURCE_EXHAUSTED"):
        await asyncio.wait_for(call(none(), Context(caller=client)), 5)
    # A worker's slots bound what its attempts send.
    running += [asyncio.create_task(call(none(), Context(caller=node))) for _ in range(5)]
    await asyncio.sleep(0)
    ends.set()
    assert await asyncio.gather(*running) == [["done"]] * 7
    assert len(begun) == 7
    assert await call(none(), Context(caller=client)) == ["done"]


def test_what_goes_through_many_records_or_bytes_has_a_share() -> None:
    named = {m.rpartition("/")[2] for m, rule in RULES_BY_METHOD.items() if rule.share is not None}
    listing = {m.rpartition("/")[2] for m in RULES_BY_METHOD if "/List" in m}
    assert named >= {"AddContent", "GetContent", "GetBlocks", "GetSnapshot", "SubmitTasks"}
    assert named >= listing - {"List", "ListNodes"}
    assert named >= {"WatchTasks", "ExplainAccess"}
