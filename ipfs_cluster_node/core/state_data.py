"""The replicated state as values, and the difference of two states."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Final

from ipfs_cluster_node.core.certificates import (
    Authority,
    CertificateRecord,
    CertificateRevocation,
)
from ipfs_cluster_node.core.config_history import ConfigVersion
from ipfs_cluster_node.core.delegations import StoredDelegation, StoredRevocation
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.model import Content, JoinToken, Principal, Task
from ipfs_cluster_node.core.requests import RequestRecord
from ipfs_cluster_node.core.tables import TableName, Touched


@dataclass(frozen=True, slots=True, kw_only=True)
class StateData:
    """The whole state as values, as in a snapshot. Frozen, so it can be shared."""

    cluster_id: str = ""
    cluster_name: str = ""
    cluster_did: Did = Did("")
    incarnation_last: int = 0
    principals: tuple[Principal, ...] = ()
    tokens: tuple[JoinToken, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    config_versions: tuple[ConfigVersion, ...] = ()
    tasks: tuple[Task, ...] = ()
    requests: tuple[RequestRecord, ...] = ()
    contents: tuple[Content, ...] = ()
    delegations: tuple[StoredDelegation, ...] = ()
    revocations: tuple[StoredRevocation, ...] = ()
    certificates: tuple[CertificateRecord, ...] = ()
    certificate_revocations: tuple[CertificateRevocation, ...] = ()
    authority: Authority = field(default_factory=Authority)
    judged_at_ms: int = 0


KEY_OF: Final[Mapping[TableName, Callable[[Any], Any]]] = {
    TableName.PRINCIPALS: attrgetter("did"),
    TableName.TOKENS: attrgetter("token_id"),
    TableName.CONFIG_VERSIONS: attrgetter("number"),
    TableName.TASKS: attrgetter("task_id"),
    TableName.REQUESTS: attrgetter("caller", "request_id"),
    TableName.CONTENTS: attrgetter("cid"),
    TableName.DELEGATIONS: attrgetter("cid"),
    TableName.REVOCATIONS: attrgetter("cid", "revoker"),
    TableName.CERTIFICATES: attrgetter("serial"),
    TableName.CERTIFICATE_REVOCATIONS: lambda revoked: revoked.did or revoked.serial,
}
"""The key of a row. Settings are a mapping, and the cluster's fields are keyed by their names."""
CLUSTER_FIELDS: Final = tuple(
    each.name for each in fields(StateData) if each.name not in set(TableName)
)


def rows_of(data: StateData, name: TableName) -> Mapping[Any, Any]:
    """The rows of one table by key."""
    match name:
        case TableName.CLUSTER:
            return {each: getattr(data, each) for each in CLUSTER_FIELDS}
        case TableName.SETTINGS:
            return data.settings
    return {KEY_OF[name](row): row for row in getattr(data, name)}


def differences(before: StateData, after: StateData) -> Touched:
    """The keys whose rows differ."""
    found: dict[TableName, set[Any]] = {}
    for name in TableName:
        old, new = rows_of(before, name), rows_of(after, name)
        # Identical objects compare equal at once.
        changed = {key for key in old.keys() & new.keys() if (old[key],) != (new[key],)}
        changed |= old.keys() ^ new.keys()
        if changed:
            found[name] = changed
    return found
