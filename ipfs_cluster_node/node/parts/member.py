"""A node's membership: the services it answers or redirects, and its uplink to the leader."""

from ipfs_cluster_node import __version__
from ipfs_cluster_node.access.authorizer import Authorizer
from ipfs_cluster_node.access.identify import MemberIdentification
from ipfs_cluster_node.access.turns import Turns
from ipfs_cluster_node.adapters.audit.files import FileAuditLog
from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.cluster.backups import Backups
from ipfs_cluster_node.cluster.certificates.authority import ClusterAuthority
from ipfs_cluster_node.cluster.certificates.issuing import Certificates
from ipfs_cluster_node.cluster.cluster_clock import ClusterClock
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.content.contents import Contents
from ipfs_cluster_node.cluster.delegations import Delegations
from ipfs_cluster_node.cluster.members import Members
from ipfs_cluster_node.cluster.state_watches import StateWatches
from ipfs_cluster_node.cluster.tasks import Tasks
from ipfs_cluster_node.cluster.worker_sessions import WorkerSessions
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.node.parts.common import CommonPart
from ipfs_cluster_node.node.parts.part import Part
from ipfs_cluster_node.node.space import DiskSpace
from ipfs_cluster_node.node.uplink import Uplink
from ipfs_cluster_node.services.audit import AuditServicer
from ipfs_cluster_node.services.authorization import AuthorizationServicer
from ipfs_cluster_node.services.blocks import BlockServicer
from ipfs_cluster_node.services.certificates import CertificateServicer
from ipfs_cluster_node.services.content import ContentServicer
from ipfs_cluster_node.services.gate import Gate, Identify
from ipfs_cluster_node.services.masters import MasterServicer
from ipfs_cluster_node.services.membership import MembershipServicer
from ipfs_cluster_node.services.nodes import NodeServicer
from ipfs_cluster_node.services.raft import RaftServicer
from ipfs_cluster_node.services.state_delta import StateDeltaServicer
from ipfs_cluster_node.services.task_dispatch import TaskDispatchServicer
from ipfs_cluster_node.services.worker import WorkerServicer
from ipfs_cluster_node.worker.v1 import node_pb2


class MemberPart(Part):
    """On every node. Without a log it refers callers to the leader."""

    def __init__(self, common: CommonPart) -> None:
        """Start without a log."""
        home, settings, node_id = common.home, common.settings, common.node_id
        self._common, self._node_id = common, node_id
        clock = common.clock
        self.clock = ClusterClock(
            node_id,
            own=clock,
            voters=lambda: self.consensus.voters,
            channel_to=common.channels.bulk,
        )
        self.consensus = Consensus(
            node_id,
            peers=common.peers,
            now_ms=self.clock.now_ms,
        )
        common.certificate.now = self.clock.utc_now
        self.space = DiskSpace(home.path, settings.storage.log_reserve)
        self.store = BlockStore(home.content, self.space.require)
        self._observations = common.observations
        self.tasks = Tasks(self.consensus, common.observations)
        self.sessions = WorkerSessions(self.consensus, self.tasks, common.observations, clock=clock)
        self.state_watches = StateWatches(self.consensus)
        self.authority = ClusterAuthority(
            home,
            self.consensus,
            did=common.files.identity.did,
            cluster_id=settings.cluster.id,
            clock=clock,
        )
        self.certificates = Certificates(
            self.consensus, self.authority, self.clock, common.observations
        )
        common.certificate.sign_alone = self._sign_alone
        self.members = Members(self.consensus, common.observations, self.certificates, clock=clock)
        self.members.boots = self.sessions.boots = common.boots
        self.contents = Contents(
            consensus=self.consensus,
            store=self.store,
            channel_to=common.channels.bulk,
            clock=clock,
            room_of=common.observations.room_bytes.get,
        )
        self.uplink = Uplink(
            connection=common.connection,
            peers=common.peers,
            registration=node_pb2.RegisterNodeRequest(
                endpoints=common.advertised,
                slot_count=settings.slot_count,
                version=__version__,
                boot=common.boot,
            ),
            revocations=common.revocations,
            room_bytes=lambda: self.space.room_bytes,
            content_bytes=lambda: self.store.size_bytes,
            votes_alone=lambda: self.consensus.votes_alone,
            clock=clock,
        )
        self.uplink.certificate_epoch = lambda: common.certificate.epoch
        self.uplink.want_epoch = common.certificate.want
        self.uplink.on_time = self.clock.take
        self.uplink.on_removal = self.consensus.take_removal
        self.authorizer = Authorizer(
            node_id=node_id, holder=self.consensus, now_ms=self.clock.now_ms, clock=clock
        )
        self.audit = FileAuditLog(home.audit, lambda: self.space.has_room_for_audit, clock=clock)
        self._turns = Turns(clock.monotonic)
        self.gate = self.gate_for(
            MemberIdentification(
                known_state=self.consensus.known_state,
                is_master=common.peers.is_master,
                revocations=common.revocations,
                now_ms=self.clock.now_ms,
            )
        )
        common.revocations.on_change = self.gate.recheck_now
        self._serve()
        self.loops = {"uplink": self.uplink.run, "gate": self.gate.watch}

    def gate_for(self, identify: Identify) -> Gate:
        """A gate for a port of this node."""
        return Gate(
            identify,
            self.authorizer,
            audit=self.audit,
            name_of=self._name_of,
            turns=self._turns,
            clock=self.clock.own,
        )

    def _name_of(self, did: Did) -> str:
        state = self.consensus.known_state()
        return "" if state is None else state.members.name_of(did)

    def _serve(self) -> None:
        """Add all services of a master: without a log they answer why not, and name the leader."""
        consensus = self.consensus
        delegations = Delegations(consensus, self.authorizer, self._node_id, clock=self.clock.own)
        self.gate.serve(
            AuthorizationServicer(delegations),
            AuditServicer(self.audit, self._node_id),
            ContentServicer(self.contents, consensus),
            MembershipServicer(self.members, consensus, Backups(consensus)),
            StateDeltaServicer(consensus, self.state_watches),
            TaskDispatchServicer(self.tasks),
            NodeServicer(self.members, consensus),
            WorkerServicer(self.sessions),
            CertificateServicer(self.certificates, consensus),
            MasterServicer(self.members, self.certificates, consensus),
            BlockServicer(self.contents, consensus),
            RaftServicer(consensus),
        )

    def check_callers_again(self) -> None:
        """Check every caller by what is known now: of new connections, and of running streams."""
        self._common.certificate.end_sessions()
        self.gate.recheck_now()

    def _sign_alone(self, request_der: bytes) -> bytes | None:
        if self.consensus.replica is None:
            return None
        common = self._common
        endpoints = (*common.advertised, *common.settings.enrolment_endpoints)
        return self.certificates.sign_alone(request_der, common.files.identity.did, endpoints)

    def on_leadership(self, leads: bool) -> None:  # noqa: FBT001
        """Start or stop leading."""
        self._observations.clear()
        for each in (self.members, self.tasks, self.sessions):
            each.on_leadership(leads)

    async def prepare(self) -> None:
        """Write the audit log from the first call on."""
        self.audit.start()

    async def close(self) -> None:
        """Write the rest of the audit log."""
        await self.audit.stop()
