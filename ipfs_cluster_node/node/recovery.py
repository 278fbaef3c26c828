"""Lets a master whose own key is lost open the cluster's keys with the recovery passphrase."""

from ipfs_cluster_node.adapters.keys.sealing import SealKey, open_keys, recovery_key
from ipfs_cluster_node.codec.commands import authority_from_log
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import load_settings
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.log.v1 import command_pb2


def prepare_recovery(home: Home, passphrase: str) -> None:
    """Check the passphrase, and leave for the next start what it gives; make a new seal.key.

    Raises:
        ClusterError: AUTHORITY_SEALED for a wrong passphrase, HOME_DAMAGED where the home directory
            has no copy of the sealed keys, CONFIG_INVALID on a node that is no master.
    """
    settings = load_settings(home.path / "config.toml", environment={})
    if settings.node.role != Role.MASTER:
        raise ClusterError(
            Reason.CONFIG_INVALID, "only masters open the cluster's keys; this node is none"
        )
    try:
        message = command_pb2.Authority.FromString(home.authority.read_bytes())
    except OSError as error:
        raise ClusterError(
            Reason.HOME_DAMAGED,
            f"{home.authority} can't be read; restore it from a backup, or from another master",
        ) from error
    authority = authority_from_log(message)
    key = recovery_key(passphrase, settings.cluster.id)
    try:
        data_key = key.open(
            authority.recovery_wrap, cluster_id=settings.cluster.id, key_id=authority.key_id
        )
    except ClusterError as error:
        raise ClusterError(
            Reason.AUTHORITY_SEALED, "the passphrase is not that of this cluster; check it"
        ) from error
    open_keys(authority, data_key, cluster_id=settings.cluster.id)
    write_private(home.recovery_key, key.pem())
    write_private(home.seal_key, SealKey.create().pem())
