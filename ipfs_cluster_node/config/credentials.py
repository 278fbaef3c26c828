"""A certificate, its key and the roots on disk, replaced safely while others read them.

The certificate's file holds the key as well, so that the two always match, and ends with the
authority's epoch, as text that readers of PEM pass over. The separate key file is
for other programs; it is written last, and not read if the certificate's file has a key.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipfs_cluster_node.config.files import read_regular, write_private

IDENTITY_NAME: Final = "identity.key"
"""In the directory of a client's certificate."""
ENROLMENT_NAME: Final = "enrolment.json"

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----[^-]*-----END \1-----\n?")
_EPOCH: Final = re.compile(rb"^epoch (\d{1,12})$", re.MULTILINE)


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """A certificate chain, its key and the trusted roots, in PEM."""

    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes
    epoch: int = 0
    """The authority's epoch when the certificate was issued."""


def read_credentials(ca: Path, certificate: Path, key: Path) -> Credentials:
    """Read them; raises OSError."""
    ca_pem, text = read_regular(ca), read_regular(certificate)
    certificate_pem = _blocks(text, b"CERTIFICATE")
    key_pem = _blocks(text, b"PRIVATE KEY") or read_regular(key)
    epoch = _EPOCH.search(text)
    return Credentials(ca_pem, certificate_pem, key_pem, int(epoch[1]) if epoch else 0)


def write_credentials(credentials: Credentials, ca: Path, certificate: Path, key: Path) -> None:
    """Replace them; a reader meanwhile, or after a crash, finds a matching set."""
    # The roots first: they fit the old certificate as well as the new one.
    write_private(ca, credentials.ca_pem)
    # Last, in the same file: a strict reader of PEM finds what it looks for first, and a crash
    # leaves no certificate with another one's epoch.
    tail = f"epoch {credentials.epoch}\n".encode()
    write_private(certificate, credentials.certificate_pem + credentials.key_pem + tail)
    write_private(key, credentials.key_pem)


def read_enrolment(path: Path) -> tuple[str, ...]:
    """Read the enrolment endpoints that renew an expired certificate; empty if unknown."""
    try:
        return tuple(map(str, json.loads(read_regular(path))))
    except (OSError, ValueError):
        return ()


def write_enrolment(path: Path, endpoints: Iterable[str]) -> None:
    """Store the enrolment endpoints that renew an expired certificate."""
    known = tuple(endpoints)
    if known and known != read_enrolment(path):
        write_private(path, json.dumps(known).encode())


def _blocks(text: bytes, kind: bytes) -> bytes:
    return b"".join(match[0] for match in _BLOCK.finditer(text) if match[1].endswith(kind))
