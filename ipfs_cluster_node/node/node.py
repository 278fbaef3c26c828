"""Builds a node of its parts, runs it, and stops it in order."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from ipfs_cluster_node import __version__
from ipfs_cluster_node.access.authorizer import Authorizer
from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.identify import MemberIdentification, identify_joiner
from ipfs_cluster_node.access.revocations import Revocations
from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from ipfs_cluster_node.access.turns import Turns
from ipfs_cluster_node.adapters.audit.files import FileAuditLog
from ipfs_cluster_node.adapters.clock import monotonic
from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.adapters.net.tls import (
    ClientTls,
    ServerTls,
    bind_port,
    make_server,
)
from ipfs_cluster_node.adapters.raft.config import TRAILING_ENTRIES, RaftConfig
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.adapters.worker.pool import HandlerPool
from ipfs_cluster_node.client.connection import (
    Connection,
)
from ipfs_cluster_node.cluster.backups import Backups
from ipfs_cluster_node.cluster.certificates.authority import ClusterAuthority
from ipfs_cluster_node.cluster.certificates.issuing import Certificates
from ipfs_cluster_node.cluster.cluster_clock import ClusterClock
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.content.contents import Contents
from ipfs_cluster_node.cluster.delegations import Delegations
from ipfs_cluster_node.cluster.enrolment import Enrolment
from ipfs_cluster_node.cluster.members import Members
from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.cluster.tasks import Tasks
from ipfs_cluster_node.cluster.worker_sessions import WorkerSessions
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import profile_files
from ipfs_cluster_node.config.settings import NodeSettings
from ipfs_cluster_node.core.boots import Boots
from ipfs_cluster_node.core.effects import CertificatesRevoked, Effect
from ipfs_cluster_node.core.endpoints import Endpoint, parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.core.tables import Touched
from ipfs_cluster_node.node.attempts import AttemptRunner
from ipfs_cluster_node.node.channels import PeerChannels
from ipfs_cluster_node.node.copies import Copies
from ipfs_cluster_node.node.files import load_files
from ipfs_cluster_node.node.health import NodeHealth
from ipfs_cluster_node.node.loop_gaps import LoopGaps
from ipfs_cluster_node.node.own_certificate import OwnCertificate
from ipfs_cluster_node.node.space import DiskSpace
from ipfs_cluster_node.node.uplink import Uplink
from ipfs_cluster_node.node.worker import Worker
from ipfs_cluster_node.services.audit import AuditServicer
from ipfs_cluster_node.services.certificates import CertificateServicer
from ipfs_cluster_node.services.content import ContentServicer
from ipfs_cluster_node.services.delegations import AuthorizationServicer
from ipfs_cluster_node.services.enrolment import EnrolmentServicer
from ipfs_cluster_node.services.gate import Gate, Identify
from ipfs_cluster_node.services.health import HealthServicer
from ipfs_cluster_node.services.membership import MembershipServicer
from ipfs_cluster_node.services.raft import RaftServicer
from ipfs_cluster_node.services.standard_health import (
    StandardHealthServicer,
    add_check_alone,
)
from ipfs_cluster_node.services.state_delta import StateDeltaServicer
from ipfs_cluster_node.services.task_dispatch import TaskDispatchServicer
from ipfs_cluster_node.v1 import (
    audit_pb2_grpc,
    authorization_pb2_grpc,
    certificate_pb2_grpc,
    content_pb2_grpc,
    enrolment_pb2_grpc,
    membership_pb2,
    membership_pb2_grpc,
    raft_pb2_grpc,
    state_delta_pb2_grpc,
    task_dispatch_pb2_grpc,
)
from ipfs_cluster_node.v1 import (
    health_pb2_grpc as own_health_pb2_grpc,
)

log = logging.getLogger(__name__)

STOP_GRACE_SECONDS: Final = 2.0
HEALTH_INTERVAL_SECONDS: Final = 0.5
SERVED: Final = sorted(
    {
        method.split("/")[1]
        for method, rule in RULES_BY_METHOD.items()
        if method.startswith("/ipfs_cluster_node.") and rule.callers != {CallerClass.JOINER}
    }
)
"""Our services on the port for members."""
HEALTH_NAMES: Final = ("", *SERVED)
"""What `grpc.health.v1` is asked for; the empty name means the whole node."""


class Node:
    """One node. `run` serves until it is cancelled or something of it fails."""

    def __init__(self, home: Home, settings: NodeSettings) -> None:
        """Build every part; nothing runs or listens yet.

        Raises:
            LogDamagedError: Its log can't be trusted.
            ClusterError: Why else the node can't be built, and the way out.
        """
        self._home = home
        self._settings = settings
        self._files = load_files(home)
        self.node_id = self._files.identity.node_id
        self._peers = PeerBook(home.masters)
        self._channels = PeerChannels(self._peers, lambda: self._own.tls)
        self._bind = parse_endpoint(settings.node.bind)
        is_master = settings.node.role == Role.MASTER
        machine = ReplicatedStateMachine() if is_master else None
        self._boot = secrets.randbits(63) | 1  # Never 0, which says nothing.
        self._boots = Boots(self.node_id, self._boot, self._advertised()[0])
        replica = self._make_replica(machine) if machine is not None else None
        self._consensus = Consensus(
            self.node_id, machine=machine, replica=replica, peers=self._peers
        )
        if machine is not None and replica is not None:
            self._peers.follow(replica, machine)
        space = DiskSpace(home.path, settings.storage.log_reserve)
        store = BlockStore(home.content, space.require)
        self._clock = ClusterClock(
            self.node_id,
            voters=lambda: self._consensus.voters,
            channel_to=self._channels.bulk,
        )
        self._consensus.now_ms = self._clock.now_ms
        self._loop_gaps = LoopGaps()
        self._observations = Observations(self._loop_gaps.listened_seconds)
        self._tasks = Tasks(self._consensus, self._observations)
        self._sessions = WorkerSessions(self._consensus, self._tasks, self._observations)
        self._revocations = Revocations()
        self._authority = ClusterAuthority(
            home,
            self._consensus,
            did=self._files.identity.did,
            cluster_id=settings.cluster.id,
            seal_key=self._files.seal_key,
        )
        self._certificates = (
            Certificates(self._consensus, self._authority, self._clock, self._observations)
            if is_master
            else None
        )
        self._members = Members(self._consensus, self._certificates, self._observations)
        self._members.boots = self._sessions.boots = self._boots
        self._contents = Contents(
            consensus=self._consensus,
            store=store,
            channel_to=self._channels.bulk,
            room_of=self._observations.room_bytes.get,
        )
        if machine is not None and replica is not None:
            machine.watch(self._tasks.on_change, self._sessions.on_change, self._on_change)
            machine.listen(self._sessions.on_effect, self._on_effect)
            replica.on_leadership = self._on_leadership
        slots = settings.slot_count
        self._pool = HandlerPool(
            modules=settings.tasks.handler_modules,
            slots=slots,
            memory_bytes_max=settings.tasks.memory_max,
            scratch=home.scratch,
            hidden=(home.path, *profile_files(), *map(Path, settings.tasks.hidden_paths)),
            writable=settings.tasks.writable_paths,
            require_confinement=settings.tasks.require_confinement,
            on_progress=self._on_progress,
        )
        self._uplink = Uplink(
            connection=Connection(self._targets(), self._files.tls),
            peers=self._peers,
            registration=membership_pb2.RegisterNodeRequest(
                endpoints=self._advertised(),
                task_types=sorted(self._pool.task_types),
                slot_count=slots,
                version=__version__,
                incarnation=_incarnation(replica),
                seal_key=self._authority.seal_public_key,
                enrolment_endpoints=settings.enrolment_endpoints if is_master else (),
                boot=self._boot,
            ),
            revocations=self._revocations,
            running_count=lambda: self._worker.running_count if self._worker else 0,
            room_bytes=lambda: space.room_bytes,
            votes_alone=lambda: self._consensus.votes_alone,
        )
        self._own = OwnCertificate(
            home, self._files.identity, self._files.credentials, self._uplink.connection
        )
        self._own.on_renewed = [self._uplink.connection.renew, self._renew_channels]
        self._own.sign_alone = self._sign_alone
        self._uplink.certificate_epoch = lambda: self._own.epoch
        self._uplink.want_epoch = self._own.want
        self._uplink.on_time = self._clock.take
        self._copies = Copies(
            node_id=self.node_id,
            boot=self._boot,
            addresses=lambda: [*self._peers.all_endpoints(self.node_id), *self._advertised()],
            votes_alone=lambda: self._consensus.votes_alone,
            tls=lambda: self._own.tls,
        )
        self._own.now = self._clock.utc_now
        self._worker = self._make_worker(slots, space) if slots else None
        self.health = NodeHealth(
            node_id=self.node_id,
            name=settings.node.name,
            role=settings.node.role,
            consensus=self._consensus,
            uplink=self._uplink,
            store=store,
            worker=self._worker,
            pool=self._pool if slots else None,
            home=home,
            space=space,
            certificate=self._own,
            loop_gaps=self._loop_gaps,
            clock=self._clock,
        )
        self._standard_health = StandardHealthServicer(HEALTH_NAMES)
        identify = MemberIdentification(
            machine=machine,
            is_master=self._peers.is_master,
            revocations=self._revocations,
            clock_ms=self._clock.now_ms,
        )
        self._authorizer = Authorizer(
            node_id=self.node_id, machine=machine, clock_ms=self._clock.now_ms
        )
        self._audit = FileAuditLog(home.audit, lambda: space.has_room_for_audit)
        self._turns = Turns()
        self._gate = self._services(identify)
        self._revocations.on_change = self._gate.recheck_now
        self._server = make_server()
        self._server.add_generic_rpc_handlers((self._gate,))
        self._enrolment_server = None
        if is_master:
            enrolment = Enrolment(self._uplink.connection)
            self._enrolment_server = self._make_enrolment_server(enrolment)

    def take_masters(self, masters: Mapping[NodeId, tuple[str, ...]]) -> bool:
        """Take masters that the operator names, on a master that knows of no other by itself.

        Returns:
            Whether they were taken.
        """
        if not self._consensus.knows_nobody:
            return False
        self._peers.learn(masters.items(), None)
        self._uplink.connection.learn(self._targets())
        return True

    async def run(self, on_ready: Callable[[Endpoint], None] = lambda _bound: None) -> None:
        """Serve until cancelled.

        Args:
            on_ready: Called with where the node listens, once it does.

        Raises:
            ClusterError: PORT_IN_USE, MEMBER_RUNS_TWICE, or what made the node stop.
        """
        mutual = ServerTls(self._own.tls, mutual=True)
        self._own.servers.append(mutual)
        bind_port(self._server, self._bind, mutual.credentials, flag="--bind")
        if self._enrolment_server is not None:
            alone = ServerTls(self._own.tls, mutual=False)
            self._own.servers.append(alone)
            bind_port(
                self._enrolment_server,
                parse_endpoint(self._settings.node.enrolment_bind),
                alone.credentials,
                flag="--enrolment-bind",
            )
        try:
            await self._pool.start()
        except ClusterError:
            await self._pool.close()
            raise
        except (OSError, TimeoutError) as error:
            await self._pool.close()
            raise ClusterError(
                Reason.HANDLER_FAILED,
                f"handler processes do not start ({error}); see the lines of the log before this, "
                "and import the modules of tasks.handler_modules by hand",
            ) from error
        try:
            self._audit.start()
            await self._server.start()
            if self._enrolment_server is not None:
                await self._enrolment_server.start()
            await self._copies.refuse()  # Before anything votes, and while this process answers.
            on_ready(self._bind)
            await self._run_loops()
        finally:
            await self._stop()

    async def _run_loops(self) -> None:
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "uplink": self._uplink.run,
            "health": self._publish_health,
            "gate": self._gate.watch,
            "certificate": self._own.run,
            "loop-gaps": self._loop_gaps.run,
        }
        if self._consensus.replica is not None:
            loops |= {
                "raft": self._run_replica,
                "assignments": self._sessions.run,
                "liveness": self._members.run,
                "copies": self._copies.run,
            }
        if self._certificates is not None:
            loops["certificates"] = self._certificates.run
            loops["clock"] = self._clock.run
        if self._worker is not None:
            loops["worker"] = self._worker.run
        tasks = [asyncio.create_task(_forever(loop()), name=name) for name, loop in loops.items()]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # A loop that ends ends the node: none may fail in silence.
        except asyncio.CancelledError:
            # Told to stop: what a worker has in hand goes back while the loops still run.
            if self._worker is not None:
                await self._worker.leave(self._settings.tasks.drain)
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_replica(self) -> None:
        assert self._consensus.replica is not None
        try:
            await self._consensus.replica.run()
        except ClusterError as error:
            # The node goes on without a vote and without the log, to say in its health why.
            if error.reason is not Reason.LOG_STORAGE_FAILED:
                raise
            await asyncio.Event().wait()

    async def _stop(self) -> None:
        self._sessions.on_leadership(False)
        await self._server.stop(STOP_GRACE_SECONDS)
        if self._enrolment_server is not None:
            await self._enrolment_server.stop(STOP_GRACE_SECONDS)
        await self._pool.close()
        await self._uplink.connection.close()
        await self._channels.close()
        await self._audit.stop()

    def _on_leadership(self, leads: bool, term: int) -> None:  # noqa: FBT001
        log.info("leads" if leads else "follows", extra={"term": term})
        self._observations.clear()
        for part in (self._members, self._tasks, self._sessions):
            part.on_leadership(leads)

    def _on_effect(self, effect: Effect) -> None:
        if isinstance(effect, CertificatesRevoked):
            self._check_certificates_again()

    def _on_change(self, _revision: int, touched: Touched | None) -> None:
        if touched is None:  # Revocations may have come with the snapshot.
            self._check_certificates_again()

    def _check_certificates_again(self) -> None:
        self._own.end_sessions()
        self._gate.recheck_now()

    def _on_progress(self, task_id: TaskId, attempt: int, ratio: float, note: str) -> None:
        if self._worker is not None:
            self._worker.on_progress(task_id, attempt, ratio, note)

    async def _publish_health(self) -> None:
        while True:
            self._standard_health.set_serving(self.health.is_serving)
            await asyncio.sleep(HEALTH_INTERVAL_SECONDS)

    # Building.

    def _make_replica(self, machine: ReplicatedStateMachine) -> Replica:
        raft = self._settings.raft
        return Replica(
            directory=self._home.raft,
            notes=self._home.state,
            boot=self._boot,
            boots=self._boots,
            machine=machine,
            dial=self._channels.dial_raft,
            config=RaftConfig(
                heartbeat_interval=raft.heartbeat_interval,
                election_timeout_min=raft.election_timeout_min,
                election_timeout_max=raft.election_timeout_max,
                snapshot_entries=raft.snapshot_entries,
                trailing_entries=min(TRAILING_ENTRIES, raft.snapshot_entries // 10),
            ),
        )

    def _make_worker(self, slots: int, space: DiskSpace) -> Worker:
        def has_room() -> bool:
            return space.has_room_for_tasks

        return Worker(
            uplink=self._uplink,
            runner=AttemptRunner(
                uplink=self._uplink,
                pool=self._pool,
                contents=self._contents,
                channel_to=self._channels.bulk,
                has_room=has_room,
            ),
            slots=slots,
            has_room=has_room,
        )

    def _services(self, identify: Identify) -> Gate:
        gate = Gate(identify, self._authorizer, audit=self._audit, turns=self._turns)
        server = gate.as_server
        delegations = Delegations(self._consensus, self._authorizer, self.node_id)
        authorization_pb2_grpc.add_AuthorizationServiceServicer_to_server(
            AuthorizationServicer(delegations), server
        )
        if self._certificates is not None:
            certificate_pb2_grpc.add_CertificateServiceServicer_to_server(
                CertificateServicer(self._certificates, self._consensus), server
            )
        audit_pb2_grpc.add_AuditServiceServicer_to_server(
            AuditServicer(self._audit, self.node_id), server
        )
        content_pb2_grpc.add_ContentServiceServicer_to_server(
            ContentServicer(self._contents, self._consensus), server
        )
        own_health_pb2_grpc.add_HealthServiceServicer_to_server(
            HealthServicer(self.health.get_health), server
        )
        membership_pb2_grpc.add_MembershipServiceServicer_to_server(
            MembershipServicer(
                self._members,
                self._consensus,
                Backups(self._consensus),
            ),
            server,
        )
        if self._consensus.replica is not None:
            raft_pb2_grpc.add_RaftServiceServicer_to_server(
                RaftServicer(self._consensus.replica), server
            )
        state_delta_pb2_grpc.add_StateDeltaServiceServicer_to_server(
            StateDeltaServicer(self._consensus), server
        )
        task_dispatch_pb2_grpc.add_TaskDispatchServiceServicer_to_server(
            TaskDispatchServicer(self._tasks, self._sessions), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._standard_health, server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            reflection.aio.ReflectionServicer(
                (
                    *SERVED,
                    health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                    reflection.SERVICE_NAME,
                )
            ),
            server,
        )
        return gate

    def _make_enrolment_server(self, enrolment: Enrolment) -> grpc.aio.Server:
        gate = Gate(identify_joiner, self._authorizer, audit=self._audit, turns=self._turns)
        enrolment_pb2_grpc.add_EnrolmentServiceServicer_to_server(
            EnrolmentServicer(enrolment, monotonic), gate.as_server
        )
        add_check_alone(self._standard_health, gate)
        server = make_server(enrolment=True)
        server.add_generic_rpc_handlers((gate,))
        return server

    # Other nodes.

    def _advertised(self) -> tuple[str, ...]:
        return self._settings.node.advertise or (str(self._bind),)

    def _targets(self) -> list[tuple[str, NodeId | None]]:
        targets = self._peers.targets()
        if self._settings.node.role == Role.MASTER:
            targets += [(address, self.node_id) for address in self._advertised()]
        if not targets:
            raise ClusterError(
                Reason.HOME_DAMAGED,
                f"{self._home.masters} names no master; name one that runs: ipfs-cluster-node "
                "serve --master NODE_ID@HOST:PORT (see `node list`)",
            )
        return list(dict.fromkeys(targets))

    async def _renew_channels(self, _tls: ClientTls) -> None:
        await self._channels.renew()
        if self._consensus.replica is not None:
            self._consensus.replica.redial()

    def _sign_alone(self, request_der: bytes) -> bytes | None:
        if self._certificates is None:
            return None
        endpoints = (*self._advertised(), *self._settings.enrolment_endpoints)
        return self._certificates.sign_alone(request_der, self._files.identity.did, endpoints)


async def _forever(loop: Awaitable[None]) -> None:
    await loop


def _incarnation(replica: Replica | None) -> int:
    return 0 if replica is None else int(replica.voter.rpartition(".")[2])
