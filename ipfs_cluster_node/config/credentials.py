"""A certificate, its key and the roots, on disk: replaced while others read them.

The certificate's file holds the key as well, so that the two always fit. The key's own file is for
programs that want one; it is written last, and not read where the first has a key.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipfs_cluster_node.config.files import read_regular, write_private

IDENTITY_NAME: Final = "identity.key"
"""Beside a client's certificate."""
ENROLMENT_NAME: Final = "enrolment.json"

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----[^-]*-----END \1-----\n?")
_EPOCH: Final = re.compile(rb"^epoch (\d{1,12})$", re.MULTILINE)


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What one shows and whom one trusts, in PEM."""

    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes
    epoch: int = 0
    """The authority's, when the certificate was issued."""


def read_credentials(ca: Path, certificate: Path, key: Path) -> Credentials:
    """Read them; raises OSError."""
    ca_pem, text = read_regular(ca), read_regular(certificate)
    certificate_pem = _blocks(text, b"CERTIFICATE")
    key_pem = _blocks(text, b"PRIVATE KEY") or read_regular(key)
    epoch = _EPOCH.search(text)
    return Credentials(ca_pem, certificate_pem, key_pem, int(epoch[1]) if epoch else 0)


def write_credentials(credentials: Credentials, ca: Path, certificate: Path, key: Path) -> None:
    """Replace them; whoever reads meanwhile, or after a crash, finds what fits."""
    # The roots first: they go with the old certificate as well as with the new one.
    write_private(ca, credentials.ca_pem)
    head = f"epoch {credentials.epoch}\n".encode()
    write_private(certificate, head + credentials.certificate_pem + credentials.key_pem)
    write_private(key, credentials.key_pem)


def read_enrolment(path: Path) -> tuple[str, ...]:
    """Where an expired certificate is renewed; empty if that is not known."""
    try:
        return tuple(map(str, json.loads(read_regular(path))))
    except (OSError, ValueError):
        return ()


def write_enrolment(path: Path, endpoints: Iterable[str]) -> None:
    """Keep where an expired certificate is renewed."""
    known = tuple(endpoints)
    if known and known != read_enrolment(path):
        write_private(path, json.dumps(known).encode())


def _blocks(text: bytes, kind: bytes) -> bytes:
    return b"".join(match[0] for match in _BLOCK.finditer(text) if match[1].endswith(kind))
