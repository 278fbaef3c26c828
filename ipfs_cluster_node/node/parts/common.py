"""What every node has, whatever its role: keys, its certificate, channels to the others."""

import secrets
from dataclasses import replace

from ipfs_cluster_node.access.revocations import Revocations
from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSettings
from ipfs_cluster_node.core.boots import Boots
from ipfs_cluster_node.core.endpoints import parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.node.channels import PeerChannels
from ipfs_cluster_node.node.files import load_files
from ipfs_cluster_node.node.loop_gaps import LoopGaps
from ipfs_cluster_node.node.own_certificate import OwnCertificate
from ipfs_cluster_node.node.parts.part import Part


class CommonPart(Part):
    """On every node; built first."""

    def __init__(self, home: Home, settings: NodeSettings, *, clock: Clock) -> None:
        """Read keys and known masters; raises HOME_DAMAGED, naming the file."""
        self.home, self.settings, self.clock = home, settings, clock
        self.files = load_files(home)
        self.node_id = self.files.identity.node_id
        self.role = Role(settings.node.role)
        """May change while the node runs: see `Node.change_role`."""
        self.bind_to = parse_endpoint(settings.node.bind)
        self.boot = secrets.randbits(63) | 1  # Never 0, which means unknown.
        self.boots = Boots(self.node_id, self.boot, self.advertised[0])
        """The processes that act for the members."""
        self.peers = PeerBook(home.masters)
        self.connection = Connection(self.targets(), self.files.tls)
        """To the leader."""
        self.certificate = OwnCertificate(
            home, self.files.identity, self.files.credentials, self.connection, clock=clock
        )
        self.channels = PeerChannels(self.peers, lambda: self.certificate.tls)
        self.certificate.on_renewed = [self.connection.renew, lambda _tls: self.channels.renew()]
        self.revocations = Revocations()
        self.loop_gaps = LoopGaps(clock=clock)
        self.observations = Observations(self.loop_gaps.listened_seconds)
        self.loops = {"certificate": self.certificate.run, "loop-gaps": self.loop_gaps.run}

    @property
    def advertised(self) -> tuple[str, ...]:
        """This node's addresses for others."""
        return self.settings.node.advertise or (str(self.bind_to),)

    def listens_at(self, port: int) -> None:
        """Take the port that the system chose, as the settings leave it to the system."""
        self.bind_to = replace(self.bind_to, port=port)

    def targets(self) -> list[tuple[str, NodeId | None]]:
        """Addresses where a leader may be; raises HOME_DAMAGED, where no master is known."""
        targets = self.peers.targets()
        if self.role is Role.MASTER:
            targets += [(address, self.node_id) for address in self.advertised]
        if not targets:
            raise ClusterError(
                Reason.HOME_DAMAGED,
                f"{self.home.masters} names no master; name one that runs: ipfs-cluster-node "
                "serve --master NODE_ID@HOST:PORT (see `node list`)",
            )
        return list(dict.fromkeys(targets))

    async def close(self) -> None:
        """Close every connection to others but those of the log."""
        await self.connection.close()
        await self.channels.close()
