"""Servers and channels with TLS; there is no insecure port and no switch for one."""

from dataclasses import dataclass
from typing import Final

import grpc

from ipfs_cluster_node.core.endpoints import Endpoint, parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, tls_name

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
ENROLMENT_MESSAGE_BYTES_MAX: Final = 64 * 1024
"""From somebody unknown, unpacked: a certificate, a request and a proof are some 4 KiB."""
METADATA_BYTES_MAX: Final = 8 * 1024
STREAMS_PER_CONNECTION_MAX: Final = 1000
HANDSHAKE_TIMEOUT_MS: Final = 10_000
KEEPALIVE_MS: Final = 1_000
"""A peer that is silent for so long is asked, and gone if it does not answer for as long again: a
stopped one is noticed within about 2 s."""
KEEPALIVE_INTERVAL_MIN_MS: Final = 500
PING_STRIKES_MAX: Final = 10
"""Pings that come sooner than that, with nothing sent between, before the connection is ended. Our
own callers ping half as often; after a pause of the process a few may come at once."""
SERVER_KEEPALIVE_MS: Final = 5_000
"""So often a port asks a silent peer, and drops it if no answer comes for as long again: the other
side may have lost its power or its line."""
DEAD_CONNECTION_SECONDS_MAX: Final = 2 * SERVER_KEEPALIVE_MS / 1000
"""For so long a port takes it for a live one, at most."""
ENROLMENT_IDLE_MS: Final = 30_000
"""A connection of somebody unknown ends after so long without a call,"""
ENROLMENT_AGE_MS: Final = 300_000
"""and after so long in any case, a tenth more or less; a joiner that waits connects anew."""
ENROLMENT_AGE_GRACE_MS: Final = 60_000
"""For the calls that run by then."""
CALLS_MAX: Final = 8_192
"""At a port, streams among them: sessions of workers, links of masters, watches. More are answered
RESOURCE_EXHAUSTED, before anything is read of them."""

DESCRIPTORS_MAX: Final = 65_536
"""More are neither asked for nor counted on: some systems' hard limit is a billion."""
CONNECTIONS_SHARE: Final = 0.5
"""Of the process's descriptors: connections at the node's port, whoever made them. Without it some
idle sockets of anybody would take all, and neither the log nor a file could be opened."""
ENROLMENT_CONNECTIONS_SHARE: Final = 0.125
"""The same, at the enrolment port."""

STREAM_WINDOW_BYTES: Final = 4 * 1024 * 1024
"""What a peer may send of a stream before it is read. gRPC would measure how much is on its way
and allow as much: where the reader is slow, some 300 MiB of one file."""

Option = tuple[str, int | str]

_COMMON: Final[tuple[Option, ...]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", STREAM_WINDOW_BYTES),
)

SERVER_OPTIONS: Final[tuple[Option, ...]] = (
    *_COMMON,
    # Else what is between 8 and 16 KiB is refused by chance.
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    # Else a second node would share the port silently.
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_INTERVAL_MIN_MS),
    ("grpc.http2.max_ping_strikes", PING_STRIKES_MAX),
    ("grpc.keepalive_time_ms", SERVER_KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", SERVER_KEEPALIVE_MS),
    ("grpc.http2.ping_timeout_ms", SERVER_KEEPALIVE_MS),
)


def _enrolment_options() -> tuple[Option, ...]:
    """In place of the others' where they speak of the same."""
    return (
        ("grpc.max_receive_message_length", ENROLMENT_MESSAGE_BYTES_MAX),
        ("grpc.max_connection_idle_ms", ENROLMENT_IDLE_MS),
        ("grpc.max_connection_age_ms", ENROLMENT_AGE_MS),
        ("grpc.max_connection_age_grace_ms", ENROLMENT_AGE_GRACE_MS),
    )


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What a caller shows and whom it trusts, in PEM."""

    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes


class ServerTls:
    """A port's certificate and roots, which may change while it serves.

    gRPC asks for them with each new connection, on a thread of its own: what it is given was made
    before. A configuration that is another object, even with the same content, also ends what TLS
    sessions were made before it: without that, a ticket would let a caller in for two days that no
    handshake lets in any more.
    """

    def __init__(self, tls: ClientTls, *, mutual: bool) -> None:
        """Begin with `tls`; with `mutual` every caller shows a certificate of the cluster."""
        self._mutual = mutual
        self._tls = tls
        self._config = self._made()
        self._given = self._config
        self.credentials = grpc.dynamic_ssl_server_credentials(
            self._config,
            self._fetch,  # type: ignore[arg-type]  # None means: as before.
            require_client_authentication=mutual,
        )

    def renew(self, tls: ClientTls | None = None) -> None:
        """Use `tls` for new connections; without it the same anew."""
        self._tls = tls or self._tls
        self._config = self._made()

    def _made(self) -> grpc.ServerCertificateConfiguration:
        tls = self._tls
        # The enrolment port sends the roots as well: a joiner looks for the one its token names.
        chain = tls.certificate_pem if self._mutual else tls.certificate_pem + tls.ca_pem
        return grpc.ssl_server_certificate_configuration(
            [(tls.key_pem, chain)], root_certificates=tls.ca_pem if self._mutual else None
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        config = self._config
        if config is self._given:
            return None
        self._given = config
        return config


def bind_port(
    server: grpc.aio.Server, endpoint: Endpoint, credentials: grpc.ServerCredentials, *, flag: str
) -> int:
    """Listen; returns the port, which the system chose if `endpoint.port` is 0.

    Raises:
        ClusterError: PORT_IN_USE, naming `flag` as the way out.
    """
    try:
        port = server.add_secure_port(str(endpoint), credentials)
    except RuntimeError:
        port = 0
    if port == 0:
        raise ClusterError(
            Reason.PORT_IN_USE,
            f"can't listen on {endpoint}; stop what listens there, or choose another with {flag}",
        )
    return port


def open_channel(
    address: str,
    *,
    tls: ClientTls | None,
    ca_pem: bytes | None = None,
    node_id: NodeId | None = None,
    own_connection: bool = False,
) -> grpc.aio.Channel:
    """Open a channel; it connects with its first call.

    Args:
        address: `host:port`.
        tls: The caller's certificate; None for the enrolment port.
        ca_pem: Whom to trust where `tls` is None.
        node_id: Who must answer: another node fails in the handshake. Without it the address's
            host must be in the certificate.
        own_connection: Share no connection with other channels, so that bulk traffic on them
            delays nothing here.

    Raises:
        ClusterError: INVALID_ARGUMENT for a malformed address.
    """
    endpoint = parse_endpoint(address)
    if tls is None:
        credentials = grpc.ssl_channel_credentials(root_certificates=ca_pem)
    else:
        credentials = grpc.ssl_channel_credentials(tls.ca_pem, tls.key_pem, tls.certificate_pem)
    options: list[Option] = [
        *_COMMON,
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
        # Without it a stopped peer is never noticed.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS),
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 500),
    ]
    if node_id is not None:
        options.append(("grpc.ssl_target_name_override", tls_name(node_id)))
    if own_connection:
        options.append(("grpc.use_local_subchannel_pool", 1))
    return grpc.aio.secure_channel(str(endpoint), credentials, options=options)


def _descriptors_max() -> int:
    """How many files and connections the process may have open."""
    try:
        import resource
    except ImportError:  # Where there is no such limit.
        return CALLS_MAX
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return DESCRIPTORS_MAX if soft == resource.RLIM_INFINITY else min(soft, DESCRIPTORS_MAX)


def make_server(*, enrolment: bool = False) -> grpc.aio.Server:
    """A server that serves nothing and listens nowhere yet; with `enrolment` for anybody."""
    options: dict[str, int | str] = dict(SERVER_OPTIONS)
    share = ENROLMENT_CONNECTIONS_SHARE if enrolment else CONNECTIONS_SHARE
    options["grpc.max_allowed_incoming_connections"] = max(1, int(share * _descriptors_max()))
    if enrolment:
        options |= dict(_enrolment_options())
    return grpc.aio.server(options=list(options.items()), maximum_concurrent_rpcs=CALLS_MAX)
