"""Membership: tokens, registration, heartbeats, liveness, settings. The leader's side."""

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.keys.certificates import (
    enrolment_message,
    pin_of,
    request_spki,
)
from ipfs_cluster_node.adapters.keys.tokens import hash_secret, mint_token
from ipfs_cluster_node.cluster.certificates.issuing import Certificates, Issued
from ipfs_cluster_node.cluster.certificates.revocations import RevocationList
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.cluster.removals import Removals
from ipfs_cluster_node.codec.signatures import verify_signature
from ipfs_cluster_node.core.authorization import TOKEN_TTL_S_DEFAULT
from ipfs_cluster_node.core.boots import UNKNOWN, Boots
from ipfs_cluster_node.core.commands import (
    CreateJoinToken,
    DecideJoiner,
    ExpireRecords,
    ProposeConfig,
    RedeemJoinToken,
    RegisterNode,
    ReplaceLog,
    RevokeJoinToken,
    SetLiveness,
)
from ipfs_cluster_node.core.config_history import PlannedChange, plan
from ipfs_cluster_node.core.effects import Rejected
from ipfs_cluster_node.core.endpoints import parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.ids import Did, NodeId, node_id_of_voter, voter_id
from ipfs_cluster_node.core.model import (
    SLOTS_MAX,
    TASK_TYPES_MAX,
    TOKEN_USES_MAX,
    Joiner,
    JoinToken,
    Liveness,
    Principal,
    Role,
)
from ipfs_cluster_node.core.settings import (
    CHANGES_MAX,
    USER_VALUE_CHARS_MAX,
    ConfigChangedError,
    stored_values,
)
from ipfs_cluster_node.core.state import MORE
from ipfs_cluster_node.worker.v1 import node_pb2

log = logging.getLogger(__name__)

LIVENESS_INTERVAL_SECONDS: Final = 0.5
EXPIRY_INTERVAL_SECONDS: Final = 60.0
TOKEN_TTL_DEFAULT: Final = timedelta(seconds=TOKEN_TTL_S_DEFAULT)
APPROVAL_RETRY: Final = timedelta(seconds=2)
"""How often a waiting joiner asks again."""
TOKEN_TTL_MIN: Final = timedelta(seconds=1)
TOKEN_TTL_MAX: Final = timedelta(hours=24)


EXPIRED_COUNT_MAX: Final = 2000
"""Of each kind of records that one command expires: some 20 ms, in which nothing else runs."""


@dataclass(frozen=True, slots=True)
class MintedToken:
    """A join token with its secret: shown once."""

    text: str
    expires_at_ms: int


NOTHING_ISSUED: Final = Issued(
    certificate_pem="", trust_bundle_pem="", enrolment_endpoints=(), epoch=0
)


@dataclass(frozen=True, slots=True)
class Admission:
    """What a join token granted."""

    role: Role
    incarnation: int
    grant: str
    issued: Issued
    token_expires_at_ms: int
    at_ms: int
    """The leader's time."""


def _refusal(error: ClusterError | Rejected) -> ClusterError:
    """The same, with when to ask again while an operator has yet to decide."""
    retry_after = APPROVAL_RETRY if error.reason is Reason.APPROVAL_PENDING else None
    return ClusterError(error.reason, error.message, retry_after=retry_after)


class Members(Removals):
    """The members of the cluster, and their liveness."""

    def __init__(
        self,
        consensus: Consensus,
        observations: Observations,
        certificates: Certificates,
        *,
        clock: Clock,
    ) -> None:
        """Answer while this node leads, by what the members report to `observations`."""
        self._clock = clock
        self._observations = observations
        super().__init__(consensus)
        self._certificates = certificates
        self.boots = Boots()
        """The processes that act for the members; shared with the other connections' owners."""
        self._revocations = RevocationList()

    async def create_join_token(
        self,
        *,
        role: Role,
        ttl: timedelta | None,
        uses_max: int,
        addresses: tuple[str, ...],
        grant: str,
        namespace: str = "",
        needs_approval: bool,
        caller: Did,
        request_id: str,
    ) -> MintedToken:
        """Make a join token; only its secret's hash is committed."""
        ttl = TOKEN_TTL_DEFAULT if ttl is None else ttl
        if not TOKEN_TTL_MIN <= ttl <= TOKEN_TTL_MAX:
            raise invalid_field("ttl", "1 second to 24 hours")
        if not 0 <= uses_max <= TOKEN_USES_MAX:
            raise invalid_field("uses_max", f"1 to {TOKEN_USES_MAX}")
        authority = self._consensus.leader_state().certificates.authority
        self._certificates.check_clock()
        token = mint_token(pin_of(authority.roots[authority.signer].encode()))
        expires_at_ms = self._consensus.now_ms() + ttl // timedelta(milliseconds=1)
        body = CreateJoinToken(
            token_id=token.token_id,
            secret_hash=hash_secret(token.secret),
            role=role,
            expires_at_ms=expires_at_ms,
            uses_max=uses_max or 1,
            addresses=addresses,
            grant=grant,
            namespace=namespace,
            needs_approval=needs_approval,
        )
        ids = await self._consensus.propose(body, caller=caller, request_id=request_id)
        if ids != (token.token_id,):
            raise ClusterError(
                Reason.REQUEST_ID_REUSED, "the token's secret was shown already; make a new token"
            )
        return MintedToken(str(token), expires_at_ms)

    def join_tokens(self) -> Iterable[JoinToken]:
        """Every join token that is kept, by id."""
        tokens = self._consensus.leader_state().members.tokens()
        return sorted(tokens, key=lambda token: token.token_id)

    async def revoke_join_token(self, token_id: str, *, caller: Did, request_id: str) -> None:
        """Revoke a join token."""
        self._consensus.check_leads()
        await self._consensus.propose(
            RevokeJoinToken(token_id=token_id), caller=caller, request_id=request_id
        )

    def joiners(self) -> Iterable[tuple[JoinToken, Joiner]]:
        """Joiners that wait for approval, and their tokens, in the order in which they asked."""
        now = self._consensus.now_ms()
        waiting = [
            (token, joiner)
            for token in self._consensus.leader_state().members.tokens()
            if now < token.expires_at_ms
            for joiner in token.joiners
        ]
        return sorted(waiting, key=lambda each: (each[1].asked_at_ms, each[1].did))

    async def decide_joiner(self, body: DecideJoiner, *, caller: Did, request_id: str) -> None:
        """Approve or reject a joiner."""
        self._consensus.check_leads()
        await self._consensus.propose(body, caller=caller, request_id=request_id)

    async def redeem_join_token(
        self,
        body: RedeemJoinToken,
        *,
        request_id: str,
        certificate_request: bytes,
        proof: bytes,
        check_only: bool = False,
    ) -> Admission:
        """Commit that a joiner is admitted, and sign its certificate.

        With `check_only` only say whether it would be: nothing is committed, unless the secret is
        wrong.
        """
        # Before anything is written: without a token, a caller must not make the log grow.
        refused = self._consensus.leader_state().members.check_token(body.token_id)
        if refused is not None:
            raise ClusterError(refused.reason, refused.message)
        check_enrolment(
            token_id=body.token_id, did=body.did, request_der=certificate_request, proof=proof
        )
        if check_only:
            found = self._consensus.leader_state().members.would_admit(
                body, self._consensus.now_ms()
            )
            if isinstance(found, Rejected):
                raise ClusterError(found.reason, found.message)
            if found is not None:
                return self._admission(found.role, 0, found.grant, NOTHING_ISSUED, found)
        pending = self._consensus.leader_state().members.check_joiner(
            body, self._consensus.now_ms()
        )
        if pending is not None:
            raise _refusal(pending)
        # A name that no certificate can carry, or keys that can't be opened, use up no token.
        self._certificates.check(body.did, certificate_request, body.endpoints)
        try:
            role, incarnation, grant = await self._consensus.propose(
                body, caller=body.did, request_id=request_id
            )
        except ClusterError as error:
            raise _refusal(error) from None
        issued = await self._certificates.renew(body.did, certificate_request)
        token = self._consensus.leader_state().members.token(body.token_id)
        return self._admission(Role(role), int(incarnation), grant, issued, token)

    def _admission(
        self, role: Role, incarnation: int, grant: str, issued: Issued, token: JoinToken | None
    ) -> Admission:
        return Admission(
            role=role,
            incarnation=incarnation,
            grant=grant,
            issued=issued,
            token_expires_at_ms=0 if token is None else token.expires_at_ms,
            at_ms=self._consensus.now_ms(),
        )

    async def register_node(
        self, body: RegisterNode, *, incarnation: int, boot: int = UNKNOWN
    ) -> timedelta:
        """Commit what a node starts with; a master is added to the voters."""
        state = self._consensus.leader_state()
        if len(body.task_types) > TASK_TYPES_MAX or not 0 <= body.slot_count <= SLOTS_MAX:
            raise invalid_field("task_types", f"at most {TASK_TYPES_MAX}; slots {SLOTS_MAX}")
        for endpoint in body.endpoints:
            parse_endpoint(endpoint)
        node = state.members.node(body.node_id)
        if node is None:
            raise ClusterError(Reason.MEMBER_NOT_FOUND, "this node is not a member; join it first")
        if node.role is Role.MASTER and incarnation != node.incarnation:
            raise ClusterError(
                Reason.CALLER_NOT_ALLOWED,
                "this master's log is of an older incarnation: an old copy of its directory runs, "
                "perhaps beside the present one; stop it, and start the one that was used last",
            )
        self.boots.check(body.node_id, boot)
        await self._consensus.propose(body)
        self._observations.hear(body.node_id)
        if node.role is Role.MASTER and self._consensus.replica is not None:
            voter = voter_id(body.node_id, incarnation)
            if voter not in self._consensus.replica.voters:
                # A voter may lead at any time, and must be able to sign then.
                await self._certificates.seal_to_masters()
            await self._consensus.replica.add_voter(voter)
        return self.node_lease()

    def heartbeat(
        self,
        node_id: NodeId,
        *,
        room_bytes: int | None = None,
        content_bytes: int | None = None,
        boot: int = UNKNOWN,
    ) -> timedelta:
        """Renew a node's lease."""
        node = self._consensus.leader_state().members.node(node_id)
        if node is None or node.liveness is Liveness.ENROLLED:
            raise ClusterError(Reason.MEMBER_NOT_FOUND, "this node is not registered")
        self.boots.check(node_id, boot)
        if node.liveness is Liveness.DEAD:
            self._observations.revived.add(node_id)
        self._observations.hear(node_id)
        if room_bytes is not None:
            self._observations.room_bytes[node_id] = room_bytes
        if content_bytes is not None:
            self._observations.contents[node_id] = content_bytes, self._clock.monotonic()
        return self.node_lease()

    def stored_by(self, node: Principal) -> tuple[int, int] | None:
        """The bytes that a live node last said it stores, and their age in milliseconds.

        None if this node does not lead, or has not heard it since.
        """
        heard = self._observations.contents.get(node.node_id)
        if heard is None or node.liveness is not Liveness.ALIVE:
            return None
        return heard[0], int(1000 * (self._clock.monotonic() - heard[1]))

    def certificate_news(
        self, node_id: NodeId, *, epoch: int, version: int
    ) -> tuple[int, node_pb2.Revocations | None]:
        """The required certificate epoch, and the revocations if the caller's copy is out of date.

        It uses a certificate of `epoch`, and its copy is of `version`.
        """
        state = self._consensus.leader_state()
        self._observations.epochs[node_id] = epoch
        revocations = self._revocations.of(state, self._clock.wall())
        known = version == revocations.version
        return state.certificates.authority.epoch, None if known else revocations

    def wall_ms(self) -> int:
        """This node's clock, for others to compare theirs with."""
        return self._clock.wall_ms()

    async def replace_log(
        self, node_id: NodeId, *, damaged: int, caller: Did, request_id: str
    ) -> int:
        """Commit that a master starts a new log; returns its new incarnation.

        `damaged` is the incarnation whose log is damaged; 0 if that is not known.
        """
        state = self._consensus.leader_state()
        replica = self._consensus.replica
        assert replica is not None
        present = state.members.node(node_id)
        incarnation = 0 if present is None else present.incarnation
        # A repeat: the new incarnation already votes.
        body = ReplaceLog(node_id=node_id, incarnation=incarnation)
        if state.answer_to(caller, request_id, body) is None:
            voters = [v for v in replica.voters if node_id_of_voter(v) == node_id]
            refused = state.members.check_replacement(
                node_id, damaged, votes=voter_id(node_id, incarnation) in voters
            )
            if refused is not None:
                raise ClusterError(refused.reason, refused.message)
            for voter in voters:
                await replica.remove_voter(voter)
        [granted] = await self._consensus.propose(body, caller=caller, request_id=request_id)
        log.warning("master starts a new log", extra={"node_id": node_id, "incarnation": granted})
        return int(granted)

    async def propose_config(
        self,
        values: Mapping[str, str],
        *,
        if_values: Mapping[str, str],
        caller: Did,
        request_id: str,
    ) -> None:
        """Commit settings."""
        body = _proposal(values, if_values)
        self._consensus.check_leads()
        await self._consensus.propose(body, caller=caller, request_id=request_id)

    def plan_config(
        self, values: Mapping[str, str], if_values: Mapping[str, str]
    ) -> list[PlannedChange]:
        """What `propose_config` of these would do; raises what it would."""
        body = _proposal(values, if_values)
        settings = self._consensus.read_state().settings
        try:
            return plan(settings, body.values, body.if_values)
        except ConfigChangedError as error:
            raise ClusterError(Reason.CONFIG_CHANGED, str(error)) from None
        except ValueError as error:
            raise ClusterError(Reason.INVALID_ARGUMENT, str(error)) from None

    def plan_revert(self, version: int) -> list[PlannedChange]:
        """What would bring back the settings of a version, if one proposal can.

        Raises:
            ClusterError: VERSION_NOT_FOUND; INVALID_ARGUMENT, if more differ than one may change.
        """
        state = self._consensus.read_state()
        try:
            values = state.config_history.way_back(version, state.settings)
        except LookupError as error:
            raise ClusterError(Reason.VERSION_NOT_FOUND, str(error)) from None
        if len(values) > CHANGES_MAX:
            raise invalid_field(
                "revert_to",
                f"{len(values)} settings differ from version {version}, and at most {CHANGES_MAX} "
                "change at once; go back to a version between first, see `config history`",
            )
        return plan(state.settings, values, {})

    def masters(self) -> Iterable[Principal]:
        """Every master, the leader first."""
        leader = self._consensus.leader
        return sorted(
            self._consensus.state().members.masters(), key=lambda m: (m.node_id != leader, m.did)
        )

    def node_lease(self) -> timedelta:
        """How long a node may be silent before it counts as dead."""
        return timedelta(milliseconds=self._consensus.state().settings["node_lease"])

    def on_leadership(self, leads: bool) -> None:  # noqa: FBT001
        """Give every node a whole lease to find its new leader."""
        if leads:
            for node in self._consensus.state().members.nodes():
                self._observations.hear(node.node_id)

    async def run(self) -> None:
        """Watch leases, and expire old records."""
        next_expiry = self._clock.monotonic() + EXPIRY_INTERVAL_SECONDS
        while True:
            await asyncio.sleep(LIVENESS_INTERVAL_SECONDS)
            if not self._consensus.is_leader:
                continue
            try:
                await self._commit_liveness()
                if self._clock.monotonic() >= next_expiry:
                    next_expiry = self._clock.monotonic() + EXPIRY_INTERVAL_SECONDS
                    body = ExpireRecords(count_max=EXPIRED_COUNT_MAX)
                    while MORE in await self._consensus.propose(body):
                        body = replace(body, goes_on=True)
            except ClusterError as error:
                log.info("liveness not committed", extra={"reason": error.reason})

    async def _commit_liveness(self) -> None:
        # The leader itself is alive.
        self._observations.hear(self._consensus.node_id)
        silent_since = self._observations.listened_seconds() - self.node_lease().total_seconds()
        dead = tuple(
            node.node_id
            for node in self._consensus.leader_state().members.nodes()
            if node.liveness is Liveness.ALIVE
            and self._observations.heard_at.get(node.node_id, -math.inf) < silent_since
        )
        alive = tuple(self._observations.revived - set(dead))
        if dead or alive:
            for node_id in dead:
                log.warning("node is dead", extra={"node_id": node_id})
            await self._consensus.propose(SetLiveness(alive=alive, dead=dead))
            self._observations.revived -= set(alive)


def check_enrolment(*, token_id: str, did: Did, request_der: bytes, proof: bytes) -> None:
    """Check that a joiner owns the identity and the TLS key that it names.

    Raises:
        ClusterError: PROOF_INVALID, INVALID_ARGUMENT.
    """
    spki = request_spki(request_der)
    if not verify_signature(did, proof, enrolment_message(token_id, spki)):
        raise ClusterError(
            Reason.PROOF_INVALID, "the identity did not sign this request; sign it with its key"
        )


def _proposal(values: Mapping[str, str], if_values: Mapping[str, str]) -> ProposeConfig:
    if not 1 <= len(values) <= CHANGES_MAX:
        raise invalid_field("values", f"1 to {CHANGES_MAX}")
    if len(if_values) > CHANGES_MAX:
        raise invalid_field("if_values", f"at most {CHANGES_MAX}")
    # At most four bytes a character. All settings fit in one answer.
    if 4 * max(map(len, values.values())) > USER_VALUE_CHARS_MAX:
        for key, value in values.items():
            if len(value.encode()) > USER_VALUE_CHARS_MAX:
                bound = f"at most {USER_VALUE_CHARS_MAX} bytes"
                raise invalid_field(f"values[{key[:64]}]", bound)
    return ProposeConfig(
        values=stored_values(values),
        if_values=stored_values(if_values) if if_values else if_values,
        with_version=True,
    )
