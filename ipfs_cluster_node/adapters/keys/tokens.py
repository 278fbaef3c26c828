"""Join tokens: `cj1.<SHA-256 of the CA's public key>.<id>.<secret>[@host:port,host:port…]`.

The pin lets a joiner verify its peer before it sends the secret. The log holds only the secret's
hash. The addresses after the `@` say where masters let joiners in; they prove nothing, and any
others do as well.
"""

import asyncio
import re
import secrets
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.keys.certificates import spki_pin
from ipfs_cluster_node.core.endpoints import parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field

CONNECT_TIMEOUT_SECONDS: Final = 10.0
CLOSED_SECONDS_MAX: Final = 15.0
"""How long a port may close every connection: a master closes idle ones after ten seconds
(`adapters.net.tls.HANDSHAKE_TIMEOUT_MS`), and then has room."""
CLOSED_RETRY_SECONDS: Final = 0.5
CLOSED: Final = (ssl.SSLEOFError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
"""Errors of a connection that was accepted, and closed before the handshake."""
ADDRESSES_MAX: Final = 8
"""Masters that a token names."""
_TOKEN: Final = re.compile(r"cj1\.([0-9a-f]{64})\.([0-9a-f]{16})\.([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class JoinSecret:
    """The parts of a join token."""

    ca_pin: str
    token_id: str
    secret: str

    def __str__(self) -> str:
        return f"cj1.{self.ca_pin}.{self.token_id}.{self.secret}"

    def __repr__(self) -> str:
        """Without the secret, as this may be logged."""
        return f"JoinSecret({self.token_id})"


def mint_token(ca_pin: str) -> JoinSecret:
    """Make a token with a secret of 128 bits."""
    return JoinSecret(ca_pin, secrets.token_hex(8), secrets.token_hex(16))


def parse_token(text: str) -> JoinSecret:
    """Parse a token; raises TOKEN_INVALID, and does not repeat the token."""
    match = _TOKEN.fullmatch(text.strip())
    if match is None:
        raise ClusterError(
            Reason.TOKEN_INVALID,
            "a join token looks like cj1.<64 hex>.<16 hex>.<32 hex>; copy the whole of it",
        )
    return JoinSecret(*match.groups())


def with_addresses(token: str, endpoints: Sequence[str]) -> str:
    """A token with where masters let joiners in: all that a joiner needs, in one word."""
    return f"{token}@{','.join(endpoints[:ADDRESSES_MAX])}" if endpoints else token


def split_token(text: str) -> tuple[str, tuple[str, ...]]:
    """A token without its addresses, and those.

    Raises:
        ClusterError: TOKEN_INVALID, and does not repeat the token; INVALID_ARGUMENT for an address.
    """
    token, at, addresses = text.strip().partition("@")
    parse_token(token)
    if not at:
        return token, ()
    endpoints = addresses.split(",")
    if len(endpoints) > ADDRESSES_MAX:
        raise invalid_field("token", f"at most {ADDRESSES_MAX} addresses after the @")
    return token, tuple(str(parse_endpoint(each)) for each in endpoints)


def hash_secret(secret: str) -> bytes:
    """The log's hash of a secret; 32 bytes. The secret is random, so no salt is needed."""
    return sha256(secret.encode()).digest()


async def fetch_trust_bundle(host: str, port: int, ca_pin: str, *, clock: Clock) -> bytes:
    """Read the CA's certificate from an enrolment port, in PEM.

    Nothing is sent; the chain is not trusted, only searched for the key that the token names. A
    port that accepts connections and closes them is retried: it may be full of idle ones.

    Raises:
        ClusterError: UNREACHABLE, or CERTIFICATE_INVALID if the key is not in the chain: another
            server answers at that address.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + CLOSED_SECONDS_MAX
    while True:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                chain = await asyncio.to_thread(_read_chain, host, port)
            break
        except CLOSED as error:
            if loop.time() >= until:
                raise ClusterError(
                    Reason.UNREACHABLE,
                    f"{host}:{port} accepts connections and closes them: it is full, or not an "
                    "enrolment port; check the address, and try again in a moment",
                ) from error
        except (OSError, TimeoutError) as error:
            raise ClusterError(
                Reason.UNREACHABLE,
                f"no enrolment port answers at {host}:{port}; check the address, and that the "
                "master runs",
            ) from error
        await asyncio.sleep(CLOSED_RETRY_SECONDS)
    for der in chain:
        try:
            certificate = x509.load_der_x509_certificate(der)
            if spki_pin(certificate) != ca_pin:
                continue
        except (ValueError, ClusterError):
            continue  # Not the CA that the token names, whatever it is.
        _check_clock(x509.load_der_x509_certificate(chain[0]), clock.wall())
        return certificate.public_bytes(Encoding.PEM)
    raise ClusterError(
        Reason.CERTIFICATE_INVALID,
        f"{host}:{port} is not in the cluster that made the token; nothing was sent to it; check "
        "the address and the token",
    )


def _check_clock(shown: x509.Certificate, now: datetime) -> None:
    """Report a wrong clock: TLS would only say that nothing answers."""
    begins, ends = shown.not_valid_before_utc, shown.not_valid_after_utc
    if not begins <= now <= ends:
        raise ClusterError(
            Reason.CERTIFICATE_INVALID,
            f"the master's certificate is valid from {begins:%F %T} to {ends:%F %T} UTC, and the "
            f"clock here says {now:%F %T}; set it right and try again: nothing was sent",
        )


def _read_chain(host: str, port: int) -> list[bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    # The chain is compared with the token's hash instead, and no secret is sent here.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_SECONDS) as raw,
        context.wrap_socket(raw) as connection,
    ):
        if hasattr(connection, "get_unverified_chain"):  # Public since Python 3.13.
            return [bytes(der) for der in connection.get_unverified_chain()]
        chain = connection._sslobj.get_unverified_chain() or []  # type: ignore[attr-defined]
        return [ssl.PEM_cert_to_DER_cert(c.public_bytes()) for c in chain]
