"""`host:port`, as in configuration files and options."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason

_HOST: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_PORT_MAX: Final = 65_535
_LOCALHOST: Final = frozenset(map(ipaddress.ip_address, ("127.0.0.1", "::1")))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A listening address."""

    host: str
    port: int

    def __str__(self) -> str:
        """`host:port`, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an address; None for a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" or (self.address is not None and self.address.is_loopback)


def certified_hosts(hosts: Iterable[str]) -> list[str]:
    """The names and addresses for the certificate of a node that is reached at `hosts`, each once.

    `localhost` goes with the addresses that it stands for: people and tools write it for them.
    """
    names = dict.fromkeys(hosts)
    if any(Endpoint(host, 0).address in _LOCALHOST for host in names):
        names["localhost"] = None
    return list(names)


def parse_endpoint(text: str) -> Endpoint:
    """Read `host:port` or `[v6]:port`; raises INVALID_ARGUMENT."""
    host, separator, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if separator and _PORT.fullmatch(port) and int(port) <= _PORT_MAX:
        endpoint = Endpoint(host, int(port))
        if endpoint.address is not None:
            if bracketed == (endpoint.address.version == 6):
                return endpoint
        elif not bracketed and _HOST.fullmatch(host):
            return endpoint
    raise ClusterError(
        Reason.INVALID_ARGUMENT, f"{text[:80]!r} is not an address; write host:port, or [v6]:port"
    )
