"""Servers and channels with TLS; an insecure port does not exist."""

from dataclasses import dataclass
from typing import Final

import grpc

from ipfs_cluster_node.core.endpoints import Endpoint, parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, tls_name

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
ENROLMENT_MESSAGE_BYTES_MAX: Final = 64 * 1024
"""Of an unknown caller, uncompressed: a certificate, a request and a proof take some 4 KiB."""
METADATA_BYTES_MAX: Final = 8 * 1024
STREAMS_PER_CONNECTION_MAX: Final = 1000
HANDSHAKE_TIMEOUT_MS: Final = 10_000
KEEPALIVE_MS: Final = 1_000
"""A peer silent for so long is pinged, and counts as gone if it does not answer for as long again:
a stopped peer is noticed within about 2 s."""
KEEPALIVE_INTERVAL_MIN_MS: Final = 500
PING_STRIKES_MAX: Final = 10
"""Pings in shorter intervals, without data in between, that end the connection. Our own callers
ping half as often; after a pause of the process several may come at once."""
SERVER_KEEPALIVE_MS: Final = 5_000
"""A port pings a peer silent for so long, and drops it if no answer comes for as long again: the
peer may have lost power or network."""
DEAD_CONNECTION_SECONDS_MAX: Final = 2 * SERVER_KEEPALIVE_MS / 1000
"""The longest time for which a dead connection counts as alive."""
ENROLMENT_IDLE_MS: Final = 30_000
"""An unknown caller's connection ends after so long without a call,"""
ENROLMENT_AGE_MS: Final = 300_000
"""and after so long in any case, plus or minus a tenth; a waiting joiner reconnects."""
ENROLMENT_AGE_GRACE_MS: Final = 60_000
"""Time for calls in progress at that point."""
CALLS_MAX: Final = 8_192
"""Concurrent calls at a port, streams included: worker sessions, links of masters, watches. Further
ones are answered RESOURCE_EXHAUSTED before they are read."""

DESCRIPTORS_MAX: Final = 65_536
"""More are neither requested nor relied on: some systems' hard limit is a billion."""
CONNECTIONS_SHARE: Final = 0.5
"""Share of the process's descriptors for connections at the node's port. Without it anybody's idle
sockets could take all, so that neither the log nor a file could be opened."""
ENROLMENT_CONNECTIONS_SHARE: Final = 0.125
"""The same, at the enrolment port."""

STREAM_WINDOW_BYTES: Final = 4 * 1024 * 1024
"""Bytes of a stream that a peer may send before they are read. gRPC's own estimate grows with a
slow reader: some 300 MiB of one file."""

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
    # Otherwise metadata of 8 to 16 KiB is refused at random.
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    # Otherwise a second node would silently share the port.
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_INTERVAL_MIN_MS),
    ("grpc.http2.max_ping_strikes", PING_STRIKES_MAX),
    ("grpc.keepalive_time_ms", SERVER_KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", SERVER_KEEPALIVE_MS),
    ("grpc.http2.ping_timeout_ms", SERVER_KEEPALIVE_MS),
)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """A caller's certificate and key, and the roots it trusts, in PEM."""

    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes


class ServerTls:
    """A port's certificate and roots, which may change while it serves.

    gRPC asks for them with each new connection, on its own thread, so the answer is prepared
    beforehand. A new configuration object, even with equal content, also ends earlier TLS sessions:
    otherwise a ticket would admit a caller for two days that no handshake admits any longer.
    """

    def __init__(self, tls: ClientTls, *, mutual: bool) -> None:
        """Start with `tls`; with `mutual` callers must present a certificate of the cluster."""
        self._mutual = mutual
        self._tls = tls
        self._config = self._made()
        self._given = self._config
        self.credentials = grpc.dynamic_ssl_server_credentials(
            self._config,
            self._fetch,  # type: ignore[arg-type]  # None means: unchanged.
            require_client_authentication=mutual,
        )

    def renew(self, tls: ClientTls | None = None) -> None:
        """Use `tls` for new connections; without it a new object with the same content."""
        self._tls = tls or self._tls
        self._config = self._made()

    def _made(self) -> grpc.ServerCertificateConfiguration:
        tls = self._tls
        # The enrolment port sends the roots as well: a joiner looks for the one in its token.
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
        ca_pem: The trusted roots if `tls` is None.
        node_id: The node that must answer: another one fails in the handshake. Without it the
            address's host must be in the certificate.
        own_connection: Share no connection with other channels, so that their bulk traffic delays
            nothing here.

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
        # Otherwise a stopped peer is never noticed.
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
    """The number of descriptors the process may have open."""
    try:
        import resource
    except ImportError:  # Platforms without such a limit.
        return CALLS_MAX
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return DESCRIPTORS_MAX if soft == resource.RLIM_INFINITY else min(soft, DESCRIPTORS_MAX)


def make_server(*, enrolment: bool = False) -> grpc.aio.Server:
    """A server without services or ports yet; with `enrolment` for unknown callers."""
    options: dict[str, int | str] = dict(SERVER_OPTIONS)
    share = ENROLMENT_CONNECTIONS_SHARE if enrolment else CONNECTIONS_SHARE
    options["grpc.max_allowed_incoming_connections"] = max(1, int(share * _descriptors_max()))
    if enrolment:
        options |= {
            "grpc.max_receive_message_length": ENROLMENT_MESSAGE_BYTES_MAX,
            "grpc.max_connection_idle_ms": ENROLMENT_IDLE_MS,
            "grpc.max_connection_age_ms": ENROLMENT_AGE_MS,
            "grpc.max_connection_age_grace_ms": ENROLMENT_AGE_GRACE_MS,
        }
    return grpc.aio.server(options=list(options.items()), maximum_concurrent_rpcs=CALLS_MAX)
