"""How long a call may take."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from ipfs_cluster_node.node.authorizer import Unbounded
from ipfs_cluster_node.services import gate
from ipfs_cluster_node.services.context import Caller, CallerClass, Reach
from ipfs_cluster_node.services.gate import Gate
from tests.support.tls import enrol, make_ca

SERVICE = "ipfs_cluster_node.v1.ContentService"
CLIENT = Caller(enrol(make_ca()).identity.did, CallerClass.CLIENT)


class Details:
    method = f"/{SERVICE}/AddContent"


class AbortedError(Exception):
    pass


class Context:
    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds

    def time_remaining(self) -> float | None:
        return self.seconds

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def abort(self, code: grpc.StatusCode, *_: object) -> None:
        raise AbortedError(code.name)


async def slow(_request: Any, _context: Any) -> str:
    await asyncio.sleep(0.2)
    return "done"


class Anything:
    def decide(self, caller: Caller, *_: object) -> Reach:
        return Unbounded(caller)


async def some() -> AsyncIterator[str]:
    yield "first"


async def call(make: Any, seconds: float | None) -> str:
    guarded = Gate(lambda _context: CLIENT, Anything())
    guarded.add_registered_method_handlers(SERVICE, {"AddContent": make(slow)})
    handler = guarded.service(Details())  # type: ignore[arg-type]
    behaviour = handler.unary_unary or handler.stream_unary
    answer: str = await behaviour(some(), Context(seconds))
    return answer


@pytest.mark.asyncio
async def test_an_upload_has_its_callers_time_and_other_calls_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Uploads once had ten minutes at the most, and thirty seconds without a deadline."""
    monkeypatch.setattr(gate, "UNARY_TIME_SECONDS_MAX", 0.05)
    monkeypatch.setattr(gate, "UNARY_TIME_SECONDS_DEFAULT", 0.05)
    for seconds in (None, 60.0):
        with pytest.raises(AbortedError, match="DEADLINE_EXCEEDED"):
            await call(grpc.unary_unary_rpc_method_handler, seconds)
        assert await call(grpc.stream_unary_rpc_method_handler, seconds) == "done"


def test_a_method_without_a_rule_is_not_served() -> None:
    guarded = Gate(lambda _context: CLIENT, Anything())
    with pytest.raises(ValueError, match="has no rule"):
        guarded.add_registered_method_handlers(
            SERVICE, {"NewMethod": grpc.unary_unary_rpc_method_handler(slow)}
        )
