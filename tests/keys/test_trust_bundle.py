"""An enrolment port that is full closes what it takes, and has room a little later."""

import asyncio
import ssl
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.keys.certificates import spki_pin
from ipfs_cluster_node.adapters.keys.tokens import CLOSED_SECONDS_MAX, fetch_trust_bundle
from ipfs_cluster_node.adapters.net.tls import HANDSHAKE_TIMEOUT_MS
from ipfs_cluster_node.core.errors import ClusterError, Reason
from tests.support.tls import enrol, make_ca
from tests.support.virtual_time import loop_clock, virtual_time


async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@virtual_time
async def test_a_full_enrolment_port_is_asked_until_its_idle_connections_are_closed(
    tmp_path: Path,
) -> None:
    ca = make_ca()
    shown = enrol(ca).tls
    path = tmp_path / "server.pem"
    path.write_bytes(shown.key_pem + shown.certificate_pem + ca.certificate_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    # One port for both, so that somebody listens there at each moment.
    full = await asyncio.start_server(close, "127.0.0.1", 0, reuse_port=True)
    port = full.sockets[0].getsockname()[1]
    asked = asyncio.create_task(
        fetch_trust_bundle("127.0.0.1", port, spki_pin(ca.certificate), clock=loop_clock())
    )
    await asyncio.sleep(HANDSHAKE_TIMEOUT_MS / 1000 + 1)
    assert not asked.done()
    with_room = await asyncio.start_server(close, "127.0.0.1", port, ssl=context, reuse_port=True)
    full.close()
    assert await asked == ca.certificate_pem
    with_room.close()


@virtual_time
async def test_a_port_that_closes_every_connection_is_told_as_such_at_last() -> None:
    server = await asyncio.start_server(close, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    began = asyncio.get_running_loop().time()
    with pytest.raises(ClusterError, match="closes them: it is full") as refused:
        await fetch_trust_bundle("127.0.0.1", port, "0" * 64, clock=loop_clock())
    assert refused.value.reason is Reason.UNREACHABLE
    assert asyncio.get_running_loop().time() - began >= CLOSED_SECONDS_MAX
    server.close()


@virtual_time
async def test_a_port_where_nobody_listens_is_told_at_once() -> None:
    server = await asyncio.start_server(close, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    began = asyncio.get_running_loop().time()
    with pytest.raises(ClusterError, match="check the address"):
        await fetch_trust_bundle("127.0.0.1", port, "0" * 64, clock=loop_clock())
    assert asyncio.get_running_loop().time() - began < 1
