"""Real certificates of a throw-away CA, and who shows one: a server, a caller, a node."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from ipfs_cluster_node.access.identify import TLS_VERSION
from ipfs_cluster_node.adapters.keys.certificates import CertificateAuthority, make_tls_key
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.tls import (
    ClientTls,
    ServerTls,
    bind_port,
    make_server,
    open_channel,
)
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.config.credentials import Credentials
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.endpoints import Endpoint
from ipfs_cluster_node.node.own_certificate import OwnCertificate
from tests.support.virtual_time import loop_clock, utc_now


@dataclass(frozen=True)
class Member:
    identity: Identity
    tls: ClientTls


def make_ca() -> CertificateAuthority:
    return CertificateAuthority.create("test", utc_now())


def enrol(ca: CertificateAuthority, *, is_node: bool = True) -> Member:
    return certified(ca, Identity.create(), is_node=is_node)


def certified(ca: CertificateAuthority, identity: Identity, *, is_node: bool = True) -> Member:
    key = make_tls_key(identity)
    certificate = ca.issue(
        key.request_der,
        identity.did,
        hosts=["127.0.0.1", "localhost"],
        is_node=is_node,
        now=utc_now(),
    )
    return Member(identity, ClientTls(ca.certificate_pem, certificate, key.key_pem))


@asynccontextmanager
async def serving(handler: grpc.GenericRpcHandler) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server of its own, over mutual TLS; it is ready."""
    ca = make_ca()
    server = make_server()
    server.add_generic_rpc_handlers((handler,))
    tls = ServerTls(enrol(ca).tls, mutual=True)
    port = bind_port(server, Endpoint("127.0.0.1", 0), tls.credentials, flag="--bind")
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}", tls=enrol(ca).tls) as channel:
            await channel.channel_ready()
            yield channel
    finally:
        await server.stop(None)


class Context:
    """A call, as far as it shows the certificate of its caller."""

    def __init__(self, member: Member) -> None:
        self.certificate = member.tls.certificate_pem

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self.certificate], "ssl_tls_version": [TLS_VERSION.encode()]}


def own_certificate(member: Member, path: Path) -> OwnCertificate:
    tls = member.tls
    credentials = Credentials(tls.ca_pem, tls.certificate_pem, tls.key_pem, epoch=3)
    return OwnCertificate(
        Home(path), member.identity, credentials, Connection([], None), clock=loop_clock()
    )
