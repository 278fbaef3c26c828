"""What only masters do: sign certificates, admit joiners, watch leases and assign tasks."""

import logging

from ipfs_cluster_node.access.identify import identify_joiner
from ipfs_cluster_node.adapters.net.tls import ServerTls, bind_port, make_server
from ipfs_cluster_node.cluster.dispatch import Dispatch
from ipfs_cluster_node.cluster.enrolment import Enrolment
from ipfs_cluster_node.cluster.task_timeouts import TaskTimeouts
from ipfs_cluster_node.core.effects import CertificatesRevoked, Effect
from ipfs_cluster_node.core.endpoints import parse_endpoint
from ipfs_cluster_node.core.tables import Touched
from ipfs_cluster_node.node.duplicates import DuplicateCheck
from ipfs_cluster_node.node.parts.common import CommonPart
from ipfs_cluster_node.node.parts.log import LogPart
from ipfs_cluster_node.node.parts.member import MemberPart
from ipfs_cluster_node.node.parts.part import STOP_GRACE_SECONDS, Part
from ipfs_cluster_node.services.enrolment import EnrolmentServicer
from ipfs_cluster_node.services.standard_health import StandardHealthServicer, add_check_alone

logger = logging.getLogger(__name__)


class MasterPart(Part):
    """On masters, with the log."""

    def __init__(
        self,
        common: CommonPart,
        log: LogPart,
        member: MemberPart,
        standard_health: StandardHealthServicer,
    ) -> None:
        """Follow `log`; the enrolment port updates `standard_health` too."""
        self._common, self._member = common, member
        self._tls: ServerTls | None = None
        # They run on followers too: there tasks and sessions have nobody to tell.
        collector = member.contents.collector
        log.machine.watch(
            member.tasks.on_change,
            member.sessions.on_change,
            collector.on_change,
            self._on_change,
        )
        log.machine.listen(member.sessions.on_effect, self._on_effect)
        log.replica.on_leadership = self._on_leadership
        self._duplicates = DuplicateCheck(
            node_id=common.node_id,
            boot=common.boot,
            addresses=lambda: [*common.peers.all_endpoints(common.node_id), *common.advertised],
            votes_alone=lambda: log.replica.votes_alone,
            tls=lambda: common.certificate.tls,
        )
        gate = member.gate_for(identify_joiner)
        enrolment = Enrolment(common.connection, clock=common.clock)
        gate.serve(EnrolmentServicer(enrolment, clock=common.clock))
        add_check_alone(standard_health, gate)
        self._enrolment_server = make_server(enrolment=True)
        self._enrolment_server.add_generic_rpc_handlers((gate,))
        self.loops = {
            "assignments": Dispatch(member.consensus, member.sessions, clock=common.clock).run,
            "liveness": member.members.run,
            "task timeouts": TaskTimeouts(member.consensus, member.clock.check).run,
            "duplicates": self._duplicates.run,
            "certificates": member.certificates.run,
            "clock": member.clock.run,
            "unneeded blocks": collector.run,
        }

    def bind(self) -> None:
        """Bind the enrolment port."""
        self._tls = ServerTls(self._common.certificate.tls, mutual=False)
        self._common.certificate.servers.append(self._tls)
        bind_port(
            self._enrolment_server,
            parse_endpoint(self._common.settings.node.enrolment_bind),
            self._tls.credentials,
            flag="--enrolment-bind",
        )

    async def begin(self) -> None:
        """Admit joiners; refuse to run beside another process of the same identity.

        Raises:
            ClusterError: MEMBER_RUNS_TWICE.
        """
        await self._enrolment_server.start()
        await self._duplicates.check()  # Before this node votes, but while it answers.

    async def close(self) -> None:
        """Close the enrolment port."""
        if self._tls is not None:
            self._common.certificate.servers.remove(self._tls)
        await self._enrolment_server.stop(STOP_GRACE_SECONDS)

    def _on_leadership(self, leads: bool, term: int) -> None:  # noqa: FBT001
        logger.info("leads" if leads else "follows", extra={"term": term})
        self._member.on_leadership(leads)

    def _on_effect(self, effect: Effect) -> None:
        if isinstance(effect, CertificatesRevoked):
            self._member.check_callers_again()

    def _on_change(self, _revision: int, touched: Touched | None) -> None:
        if touched is None:  # The snapshot may have brought revocations.
            self._member.check_callers_again()
