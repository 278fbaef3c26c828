"""Servers and channels with TLS; there is no insecure port and no switch for one."""

from dataclasses import dataclass
from typing import Final

import grpc

from ipfs_cluster_node.core.endpoints import Endpoint, parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, tls_name

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
METADATA_BYTES_MAX: Final = 8 * 1024
STREAMS_PER_CONNECTION_MAX: Final = 1000
HANDSHAKE_TIMEOUT_MS: Final = 10_000
KEEPALIVE_MS: Final = 1_000
"""A peer that is silent for so long is asked, and gone if it does not answer for as long again: a
stopped one is noticed within about 2 s."""
KEEPALIVE_INTERVAL_MIN_MS: Final = 500

Option = tuple[str, int | str]

_COMMON: Final[tuple[Option, ...]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
)

SERVER_OPTIONS: Final[tuple[Option, ...]] = (
    *_COMMON,
    # Else a second node would share the port silently.
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_INTERVAL_MIN_MS),
    ("grpc.http2.max_ping_strikes", 0),
)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What a caller shows and whom it trusts, in PEM."""

    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes


def server_credentials(tls: ClientTls) -> grpc.ServerCredentials:
    """For a port on which every caller shows a certificate of the cluster."""
    return grpc.ssl_server_credentials(
        [(tls.key_pem, tls.certificate_pem)],
        root_certificates=tls.ca_pem,
        require_client_auth=True,
    )


def enrolment_credentials(tls: ClientTls) -> grpc.ServerCredentials:
    """For the enrolment port: only the server is authenticated; it sends its CA as well."""
    return grpc.ssl_server_credentials([(tls.key_pem, tls.certificate_pem + tls.ca_pem)])


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


def make_server() -> grpc.aio.Server:
    """A server that serves nothing and listens nowhere yet."""
    return grpc.aio.server(options=list(SERVER_OPTIONS))
