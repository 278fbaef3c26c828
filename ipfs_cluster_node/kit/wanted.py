"""What a kit's metadata ask for."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ipfs_cluster_node.config.profiles import JOIN_TOKEN_VARIABLE
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.kit.addresses import MasterAddress, parse_master_address
from ipfs_cluster_node.kit.given import text_in, texts_in
from ipfs_cluster_node.kit.results import ErrorType, KitError

STATE_SYNC_SECONDS_MAX: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWanted:
    """What the kit's metadata ask for."""

    role: Role
    cluster_name: str
    node_name: str
    master_addresses: tuple[MasterAddress, ...] = ()
    join_token: str = ""
    enrolment: str = ""
    """`host:port` where a master lets joiners in; default: port 9095 of a master's host."""
    bind: str = ""
    """`host:port`; default: loopback, at 9096 or a free port."""
    advertise: tuple[str, ...] = ()
    recovery_passphrase: str = ""


def node_wanted(metadata: Mapping[str, Any], role: str) -> NodeWanted:
    """What the metadata ask for; raises KitError and ClusterError."""
    if role not in (Role.MASTER, Role.WORKER, Role.LEECHER):
        raise KitError(ErrorType.VALIDATION, f"Invalid role: {role!s:.80}")
    config = metadata.get("cluster_config", {})
    if not isinstance(config, Mapping):
        raise KitError(ErrorType.VALIDATION, "cluster_config must be a dictionary")
    protocol = config.get("consensus_protocol", "raft")
    if protocol != "raft":
        raise KitError(
            ErrorType.CONFIGURATION,
            f"consensus_protocol {protocol!r:.40} does not exist here: identities, permissions and "
            "tasks are decided by Raft; leave it out, or write raft",
        )
    interval = config.get("state_sync_interval", 0)
    if type(interval) not in (int, float) or not 0 <= interval <= STATE_SYNC_SECONDS_MAX:
        raise KitError(
            ErrorType.VALIDATION,
            f"state_sync_interval is 0 to {STATE_SYNC_SECONDS_MAX} seconds",
        )
    return NodeWanted(
        role=Role(role),
        cluster_name=text_in(metadata, "cluster_name", "default"),
        node_name=text_in(metadata, "node_name", role),
        master_addresses=tuple(map(parse_master_address, texts_in(metadata, "master_addresses"))),
        join_token=text_in(metadata, "join_token") or os.environ.get(JOIN_TOKEN_VARIABLE, ""),
        enrolment=text_in(metadata, "enrolment"),
        bind=text_in(metadata, "bind"),
        advertise=texts_in(metadata, "advertise"),
        recovery_passphrase=text_in(metadata, "recovery_passphrase"),
    )
