"""Loads a node's keys and certificates at its start."""

from dataclasses import dataclass

from ipfs_cluster_node.adapters.keys.identity import Identity, check_private
from ipfs_cluster_node.adapters.keys.sealing import SealKey
from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.config.credentials import Credentials, read_credentials
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.errors import ClusterError, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFiles:
    """A node's keys and certificates at its start."""

    identity: Identity
    credentials: Credentials
    seal_key: SealKey | None
    """On masters."""

    @property
    def tls(self) -> ClientTls:
        """The credentials that the node presents first."""
        kept = self.credentials
        return ClientTls(kept.ca_pem, kept.certificate_pem, kept.key_pem)


def load_files(home: Home) -> NodeFiles:
    """Read keys and certificates; raises HOME_DAMAGED, naming the file."""
    check_private(home.tls_key)
    check_private(home.certificate)
    try:
        credentials = read_credentials(home.ca, home.certificate, home.tls_key)
    except OSError as error:
        raise ClusterError(
            Reason.HOME_DAMAGED,
            f"{error.filename} can't be read; restore it, or join with a new identity in another "
            "--home",
        ) from error
    return NodeFiles(
        identity=Identity.load(home.identity),
        credentials=credentials,
        seal_key=SealKey.load(home.seal_key) if home.seal_key.exists() else None,
    )
