"""What the services ask of the node behind them."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from ipfs_cluster_node.core.certificates import Authority
from ipfs_cluster_node.core.commands import DecideJoiner, RedeemJoinToken, RegisterNode
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId
from ipfs_cluster_node.core.model import (
    Content,
    Joiner,
    JoinToken,
    Principal,
    Role,
    Task,
    TaskSpec,
)
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.v1 import health_pb2, membership_pb2, task_dispatch_pb2


class TaskPort(Protocol):
    """Tasks, as clients see them."""

    progress: dict[TaskId, tuple[float, str]]

    async def submit_tasks(
        self, specs: Sequence[TaskSpec], *, fingerprint: bytes, caller: Did, request_id: str
    ) -> tuple[TaskId, ...]:
        """Commit tasks, all or none."""

    async def cancel_task(self, task_id: TaskId, *, caller: Did, request_id: str) -> None:
        """Commit that a task is cancelled."""

    def get_task(self, task_id: TaskId) -> Task:
        """Read one task."""

    def newest_first(self, before: int | None) -> Iterable[Task]:
        """Tasks as of now, the newest first; only those of a sequence below `before`."""

    def watch_tasks(self, task_ids: Sequence[TaskId]) -> AsyncIterator[list[Task]]:
        """Follow tasks until each has ended."""


class SessionPort(Protocol):
    """Workers' sessions."""

    def worker_session(
        self,
        node_id: NodeId,
        requests: AsyncIterator[task_dispatch_pb2.WorkerSessionRequest],
    ) -> AsyncIterator[task_dispatch_pb2.WorkerSessionResponse]:
        """Serve one session."""


class IssuedCertificate(Protocol):
    """A new certificate."""

    @property
    def certificate_pem(self) -> bytes:
        """The certificate."""

    @property
    def trust_bundle_pem(self) -> bytes:
        """Every root to trust."""

    @property
    def enrolment_endpoints(self) -> tuple[str, ...]:
        """Where it is renewed once it has expired."""

    @property
    def epoch(self) -> int:
        """The authority's."""


class RotationProgress(Protocol):
    """How far a rotation is."""

    @property
    def authority(self) -> Authority:
        """The roots and the phase."""

    @property
    def root_pins(self) -> list[str]:
        """SHA-256 of each root's public key."""

    @property
    def confirmed_count(self) -> int:
        """Live members that have what the epoch gave them."""

    @property
    def waiting(self) -> tuple[Did, ...]:
        """Live members that have not."""


class CertificatePort(Protocol):
    """Certificates."""

    async def renew_current(
        self, certificate_pem: bytes, request_der: bytes, proof: bytes
    ) -> IssuedCertificate:
        """Give a member who shows a certificate a new one."""

    async def renew_expired(
        self, certificate_pem: bytes, request_der: bytes, proof: bytes
    ) -> IssuedCertificate:
        """Give a member whose certificate has expired a new one."""

    async def revoke(
        self, *, serial: int | None, did: Did | None, caller: Did, request_id: str
    ) -> None:
        """Commit that certificates count no more."""

    async def rotate(self, *, new: bool, proceed: bool, caller: Did, request_id: str) -> int:
        """Have every node renew; gives the epoch to be reached."""

    def rotation(self) -> RotationProgress:
        """How far the members are."""


class Minted(Protocol):
    """A join token."""

    @property
    def text(self) -> str:
        """The token."""

    @property
    def expires_at_ms(self) -> int:
        """When it ends."""


class Admitted(Protocol):
    """What a join token gave."""

    @property
    def role(self) -> Role:
        """The role."""

    @property
    def incarnation(self) -> int:
        """A master's incarnation."""

    @property
    def grant(self) -> str:
        """What a client may do."""

    @property
    def issued(self) -> IssuedCertificate:
        """The joiner's certificate; empty where it was only asked whether it would be let in."""

    @property
    def token_expires_at_ms(self) -> int:
        """When the token ends."""

    @property
    def at_ms(self) -> int:
        """The leader's time."""


class MemberPort(Protocol):
    """Membership."""

    running_counts: dict[NodeId, int]

    async def create_join_token(
        self,
        *,
        role: Role,
        ttl: timedelta | None,
        uses_max: int,
        addresses: tuple[str, ...],
        grant: str,
        needs_approval: bool,
        caller: Did,
        request_id: str,
    ) -> Minted:
        """Make a join token."""

    def join_tokens(self) -> Iterable[JoinToken]:
        """Every join token that is remembered."""

    async def revoke_join_token(self, token_id: str, *, caller: Did, request_id: str) -> None:
        """Commit that a join token lets nobody in any more."""

    def joiners(self) -> Iterable[tuple[JoinToken, Joiner]]:
        """Who waits to be let in, and with which token; who asked first before the others."""

    async def decide_joiner(self, body: DecideJoiner, *, caller: Did, request_id: str) -> None:
        """Let a joiner in, or not."""

    async def redeem_join_token(
        self,
        body: RedeemJoinToken,
        *,
        request_id: str,
        certificate_request: bytes,
        proof: bytes,
        check_only: bool = False,
    ) -> Admitted:
        """Let a joiner in; or only say whether it would be."""

    async def register_node(self, body: RegisterNode, *, incarnation: int, boot: int) -> timedelta:
        """Take what a node came up with; gives its lease."""

    def heartbeat(
        self, node_id: NodeId, *, running_count: int, room_bytes: int | None = None, boot: int = 0
    ) -> timedelta:
        """Renew a lease."""

    def certificate_news(
        self, node_id: NodeId, *, epoch: int, version: int
    ) -> tuple[int, membership_pb2.Revocations | None]:
        """The epoch that certificates are to be of; what counts no more, where that is new."""

    def wall_ms(self) -> int:
        """This node's clock, for others to compare theirs with."""

    async def remove_node(
        self, node_id: NodeId, *, caller: Did, request_id: str, lose_files: bool
    ) -> None:
        """Remove a node; with `lose_files`, though it is the last holder of files."""

    async def transfer_leadership(self, target: NodeId | None, *, source: NodeId | None) -> NodeId:
        """Let another master lead; gives the leader."""

    async def replace_log(
        self, node_id: NodeId, *, damaged: int, caller: Did, request_id: str
    ) -> int:
        """Let a master begin a new log; gives its new incarnation."""

    async def propose_config(
        self,
        values: Mapping[str, str],
        *,
        if_values: Mapping[str, str],
        caller: Did,
        request_id: str,
    ) -> None:
        """Change settings, all or none."""

    def masters(self) -> Iterable[Principal]:
        """Every master."""


class BackupPort(Protocol):
    """Backups."""

    def create_backup(self) -> AsyncIterator[bytes]:
        """Make one, as of now; raises ClusterError where this node does not lead for sure."""


class StatePort(Protocol):
    """The state, as far as this node has it."""

    @property
    def node_id(self) -> NodeId:
        """This node."""

    @property
    def leader(self) -> NodeId | None:
        """The leader, as far as this node knows."""

    @property
    def applied_index(self) -> int:
        """How far this node has applied the log."""

    @property
    def term(self) -> int:
        """The current term."""

    @property
    def voters(self) -> frozenset[NodeId]:
        """Who votes."""

    def state(self) -> ClusterState:
        """The state as this node has it; raises ClusterError where there is none."""

    def read_state(self) -> ClusterState:
        """The newest state there is, or, if the caller asked for no more, what this node has."""


class ContentPort(Protocol):
    """Files by CID."""

    async def add_content(
        self,
        chunks: AsyncIterator[bytes],
        *,
        name: str,
        size_bytes: int | None,
        caller: Did,
    ) -> Content:
        """Store a file safely."""

    def get_content(self, cid: str, *, offset: int, length: int) -> AsyncIterator[bytes]:
        """Read a file."""

    def stat_content(self, cid: str) -> Content:
        """What the log knows of a file."""

    def get_blocks(
        self, cids: Sequence[bytes], *, root: bytes
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """Read blocks stored here."""

    async def put_blocks(self, blocks: AsyncIterator[tuple[bytes, bytes]]) -> int:
        """Store blocks here; gives their number."""


class HealthPort(Protocol):
    """How this node is."""

    def get_health(self) -> health_pb2.GetHealthResponse:
        """The node's own view."""


class EnrolledPort(Protocol):
    """What a joiner gets."""

    @property
    def issued(self) -> IssuedCertificate:
        """Its certificate, and whom to trust."""

    @property
    def cluster_id(self) -> str:
        """The cluster's id."""

    @property
    def cluster_name(self) -> str:
        """The cluster's name."""

    @property
    def role(self) -> str:
        """The role."""

    @property
    def incarnation(self) -> int:
        """A master's incarnation."""

    @property
    def masters(self) -> Mapping[NodeId, Sequence[str]]:
        """Masters and their addresses."""

    @property
    def server_time(self) -> Timestamp:
        """The leader's time."""

    @property
    def token_expire_time(self) -> Timestamp:
        """When the token ends."""


class EnrolmentPort(Protocol):
    """Lets joiners in."""

    async def enrol(
        self,
        body: RedeemJoinToken,
        *,
        request_id: str,
        certificate_request: bytes,
        proof: bytes,
        check_only: bool = False,
    ) -> EnrolledPort:
        """Redeem a token for a certificate; or only say whether it would be."""

    async def renew_expired(
        self, certificate_pem: bytes, certificate_request: bytes, proof: bytes
    ) -> IssuedCertificate:
        """Renew an expired certificate."""
