"""What a kit's metadata ask for."""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from ipfs_cluster_node.config.profiles import JOIN_TOKEN_VARIABLE
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.kit.addresses import MasterAddress, parse_master_address
from ipfs_cluster_node.kit.given import given_role, text_in, texts_in
from ipfs_cluster_node.kit.results import CLUSTER_NAME_DEFAULT, ErrorType, KitError

STATE_SYNC_SECONDS_MAX: Final = 86_400
CONFIG_KEYS: Final = ("consensus_protocol", "state_sync_interval")
"""Of `cluster_config`."""
KEYS: Final = (
    "advertise",
    "bind",
    "cluster_config",
    "cluster_name",
    "enable_cluster_management",
    "enrolment",
    "enrolment_bind",
    "join_token",
    "master_addresses",
    "node_name",
    "recovery_passphrase",
    "role",
)
log = logging.getLogger(__name__)


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
    enrolment_bind: str = ""
    """The same for where a master lets joiners in; default: the host of `bind`, 9095 or free."""
    advertise: tuple[str, ...] = ()
    recovery_passphrase: str = ""


def misspelt(metadata: Mapping[Any, Any], known: Collection[str] = KEYS) -> dict[str, str]:
    """Keys that mean nothing here and look like one that does, with that one."""
    found = {}
    for key in metadata:
        if isinstance(key, str) and key not in known:
            near = get_close_matches(key.lower().replace("-", "_"), known, 1, cutoff=0.8)
            if near:
                found[key] = near[0]
    return found


def hint_of(found: Mapping[str, str]) -> str:
    """What to say of misspelt keys."""
    return "; ".join(
        f"{key!r:.80} means nothing, did you mean {one}?" for key, one in found.items()
    )


def _check_config(config: Mapping[Any, Any]) -> None:
    wrong = misspelt(config, CONFIG_KEYS)
    if wrong:
        raise KitError(ErrorType.VALIDATION, f"cluster_config: {hint_of(wrong)}")
    unknown = [f"{key!r:.80}" for key in config if key not in CONFIG_KEYS]
    if unknown:
        log.warning(
            "cluster_config: %s means nothing here; there are %s",
            ", ".join(unknown),
            ", ".join(CONFIG_KEYS),
        )


def node_wanted(metadata: Mapping[str, Any], role: str) -> NodeWanted:
    """What the metadata ask for; raises KitError and ClusterError."""
    given_role(role)
    config = metadata.get("cluster_config", {})
    if not isinstance(config, Mapping):
        raise KitError(ErrorType.VALIDATION, "cluster_config must be a dictionary")
    _check_config(config)
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
        cluster_name=text_in(metadata, "cluster_name", CLUSTER_NAME_DEFAULT),
        node_name=text_in(metadata, "node_name", role),
        master_addresses=tuple(map(parse_master_address, texts_in(metadata, "master_addresses"))),
        join_token=text_in(metadata, "join_token") or os.environ.get(JOIN_TOKEN_VARIABLE, ""),
        enrolment=text_in(metadata, "enrolment"),
        bind=text_in(metadata, "bind"),
        enrolment_bind=text_in(metadata, "enrolment_bind"),
        advertise=texts_in(metadata, "advertise"),
        recovery_passphrase=text_in(metadata, "recovery_passphrase"),
    )
