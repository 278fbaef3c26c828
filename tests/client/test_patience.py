"""How long a command waits for masters that do not answer, and what it prints meanwhile."""

import asyncio

import grpc
import pytest

from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.client.patience import SAY_AGAIN_SECONDS, UNREACHABLE_SECONDS_MAX, Patience
from ipfs_cluster_node.core.errors import ClusterError, Reason
from tests.support.tls import enrol, make_ca
from tests.support.virtual_time import virtual_time

ADDRESSES = ("127.0.0.1:1", "127.0.0.1:2")


def connection(patience: Patience | None) -> Connection:
    targets = [(address, None) for address in ADDRESSES]
    opened = Connection(targets, enrol(make_ca()).tls, patience=patience)
    opened.channel = lambda target: target[0]  # type: ignore[method-assign,assignment,return-value]
    return opened


async def call(opened: Connection, reason: Reason, *, timeout: float) -> float:
    """Seconds until the call is given up."""

    async def fails(channel: grpc.aio.Channel, _seconds: float) -> None:
        raise ClusterError(reason, f"{channel} does not help")

    began = asyncio.get_running_loop().time()
    with pytest.raises(ClusterError) as error:
        await opened.following(fails, timeout=timeout)
    assert error.value.reason is reason
    return asyncio.get_running_loop().time() - began


@virtual_time
async def test_a_person_waits_about_three_seconds_where_nothing_listens() -> None:
    opened = connection(Patience(say=lambda _line: None))
    waited = await call(opened, Reason.UNREACHABLE, timeout=30)
    assert UNREACHABLE_SECONDS_MAX <= waited < UNREACHABLE_SECONDS_MAX + 1.5


@virtual_time
async def test_a_program_waits_until_its_deadline() -> None:
    assert await call(connection(None), Reason.UNREACHABLE, timeout=30) > 28


@virtual_time
async def test_masters_that_answered_once_may_be_restarting() -> None:
    opened = connection(Patience(say=lambda _line: None))

    async def answers(_channel: grpc.aio.Channel, _seconds: float) -> str:
        return "done"

    await opened.following(answers, timeout=30)
    assert await call(opened, Reason.UNREACHABLE, timeout=30) > 28


@virtual_time
@pytest.mark.parametrize("reason", [Reason.NO_LEADER, Reason.DEADLINE_EXCEEDED])
async def test_a_person_is_told_what_is_waited_for(reason: Reason) -> None:
    lines: list[str] = []
    waited = await call(connection(Patience(say=lines.append)), reason, timeout=70)
    assert waited > 68
    assert len(lines) == 1 + int(68 // SAY_AGAIN_SECONDS)
    silent = reason is Reason.DEADLINE_EXCEEDED
    said = f"no master answers at {', '.join(ADDRESSES)}" if silent else "127.0.0.1:"
    assert all(line.startswith(f"still waiting: {said}") for line in lines)


@virtual_time
async def test_many_short_calls_say_it_as_rarely_as_one() -> None:
    lines: list[str] = []
    patience = Patience(say=lines.append)
    patience.answered = True
    opened = connection(patience)
    began = asyncio.get_running_loop().time()
    for _ in range(10):
        await call(opened, Reason.UNREACHABLE, timeout=5)
    waited = asyncio.get_running_loop().time() - began
    assert waited < 2 * SAY_AGAIN_SECONDS
    assert len(lines) == 2


@virtual_time
@pytest.mark.parametrize("refused", [True, False])
async def test_where_nothing_listens_it_says_how_to_start_a_master(
    refused: bool,  # noqa: FBT001
) -> None:
    raw = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
    raw += "connect: Connection refused (111)" if refused else "handshake failed"

    async def fails(_channel: grpc.aio.Channel, _seconds: float) -> None:
        raise ClusterError(Reason.UNREACHABLE, raw)

    with pytest.raises(ClusterError) as caught:
        await connection(None).following(fails, timeout=5)
    said = caught.value.message
    assert said.startswith(f"no master answers at {', '.join(ADDRESSES)} (")
    assert ("(connection refused)" in said and "serve" in said) is refused
    assert ("certificate" in said and "ipv4" in said) is not refused


@virtual_time
async def test_nothing_is_said_of_a_short_wait() -> None:
    lines: list[str] = []
    await call(connection(Patience(say=lines.append)), Reason.NO_LEADER, timeout=2)
    assert not lines
