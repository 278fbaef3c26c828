"""Addresses of masters: `host:port`, or a multiaddr with the master's PeerID."""

import re
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.endpoints import Endpoint, parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, did_from_node_id

_MULTIADDR: Final = re.compile(
    r"/(?P<kind>ip4|ip6|dns|dns4|dns6)/(?P<host>[^/]+)/tcp/(?P<port>[0-9]{1,5})"
    r"(/p2p/(?P<peer>[^/]+))?"
)


@dataclass(frozen=True, slots=True)
class MasterAddress:
    """Where a master listens, and which one it must be."""

    address: str
    """`host:port`."""
    node_id: NodeId | None = None
    """Its PeerID; None: any master of the cluster."""


def parse_master_address(text: str) -> MasterAddress:
    """Read an address of a master.

    Raises:
        ClusterError: INVALID_ARGUMENT.
    """
    if not text.startswith("/"):
        return MasterAddress(str(parse_endpoint(text)))
    match = _MULTIADDR.fullmatch(text)
    if match is None:
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"{text[:120]!r} is no address of a master; write /ip4/HOST/tcp/PORT/p2p/PEERID, or "
            "host:port",
        )
    address = str(parse_endpoint(str(Endpoint(match["host"], int(match["port"])))))
    if match["peer"] is None:
        return MasterAddress(address)
    node_id = NodeId(match["peer"])
    try:
        did_from_node_id(node_id)
    except ValueError as error:
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"{match['peer'][:80]!r} is no PeerID of an Ed25519 key, which every node has here; "
            "`node_address` of a master's kit is its whole address",
        ) from error
    return MasterAddress(address, node_id)


def multiaddr_of(address: str, node_id: str) -> str:
    """The multiaddr of a master; raises INVALID_ARGUMENT."""
    endpoint = parse_endpoint(address)
    kind = "dns" if endpoint.address is None else f"ip{endpoint.address.version}"
    return f"/{kind}/{endpoint.host}/tcp/{endpoint.port}/p2p/{node_id}"
