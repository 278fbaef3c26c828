"""The principals of the replicated state, and the join tokens that make them."""

import hmac
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import replace

from ipfs_cluster_node.core import joiners
from ipfs_cluster_node.core.commands import (
    CreateJoinToken,
    DecideJoiner,
    RedeemJoinToken,
    RegisterNode,
    ReplaceLog,
)
from ipfs_cluster_node.core.effects import Accepted, Answer, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import Did, NodeId, did_from_node_id
from ipfs_cluster_node.core.model import TOKEN_FAILURES_MAX, JoinToken, Liveness, Principal, Role
from ipfs_cluster_node.core.tables import Notes, Table, TableName


class RemovedMembers(Container[Did]):
    """The DIDs of removed members, looked up in the table itself."""

    def __init__(self, principals: Mapping[Did, Principal]) -> None:
        self._principals = principals

    def __contains__(self, did: object) -> bool:
        principal = self._principals.get(did)  # type: ignore[call-overload]
        return principal is not None and principal.removed


class MemberTable:
    """Nodes and clients by DID, and the join tokens by id."""

    def __init__(
        self,
        principals: Iterable[Principal] = (),
        tokens: Iterable[JoinToken] = (),
        *,
        incarnation_last: int = 0,
        notes: Notes | None = None,
    ) -> None:
        notes = Notes() if notes is None else notes
        self._principals: Table[Did, Principal] = Table(
            TableName.PRINCIPALS, notes, ((p.did, p) for p in principals)
        )
        self._nodes = {p.node_id: p.did for p in self._principals.values() if p.is_node}
        self._tokens: Table[str, JoinToken] = Table(
            TableName.TOKENS, notes, ((token.token_id, token) for token in tokens)
        )
        self.removed = RemovedMembers(self._principals)
        self.incarnation_last = incarnation_last
        self._cluster_touched = notes.of(TableName.CLUSTER)

    def __len__(self) -> int:
        """The number of principals, including removed ones."""
        return len(self._principals)

    def get(self, did: Did) -> Principal | None:
        """The principal, removed or not."""
        return self._principals.get(did)

    def node(self, node_id: NodeId) -> Principal | None:
        """The node, if it is a member that was not removed."""
        did = self._nodes.get(node_id)
        principal = self._principals.get(did) if did else None
        return None if principal is None or principal.removed else principal

    def name_of(self, did: Did) -> str:
        """The name of a principal, removed or not; empty for one that is not known."""
        principal = self._principals.get(did)
        return "" if principal is None else principal.name

    def node_name(self, node_id: NodeId | None) -> str:
        """The name of a node, removed or not; empty for one that is not known."""
        did = self._nodes.get(node_id) if node_id else None
        return self.name_of(did) if did else ""

    def was_removed(self, node_id: NodeId) -> bool:
        """Whether this node was a member, and was removed."""
        did = self._nodes.get(node_id)
        return did is not None and self._principals[did].removed

    def nodes(self) -> Iterator[Principal]:
        """Every node that was not removed."""
        return (p for p in self._principals.values() if p.is_node and not p.removed)

    def masters(self) -> Iterator[Principal]:
        """Every master that was not removed."""
        return (p for p in self.nodes() if p.role is Role.MASTER)

    def enrolment_endpoints(self) -> tuple[str, ...]:
        """The masters' enrolment endpoints, for joiners and members with an expired certificate."""
        endpoints = (each for master in self.masters() for each in master.enrolment_endpoints)
        return tuple(dict.fromkeys(endpoints))

    def principals(self) -> tuple[Principal, ...]:
        """Every principal, as of now."""
        return tuple(self._principals.values())

    def tokens(self) -> tuple[JoinToken, ...]:
        """Every join token, as of now."""
        return tuple(self._tokens.values())

    def task_types(self, *, alive: bool = False) -> frozenset[str]:
        """Types that some node has a handler for: one that is alive, or any."""
        return frozenset(
            task_type
            for node in self.nodes()
            if not alive or node.liveness is Liveness.ALIVE
            for task_type in node.task_types
        )

    def put(self, principal: Principal) -> None:
        """Add or replace a principal."""
        self._principals.put_if_new(principal.did, principal)
        if principal.is_node:
            self._nodes[principal.node_id] = principal.did
        if principal.incarnation > self.incarnation_last:
            self.incarnation_last = principal.incarnation
            self._cluster_touched.append("incarnation_last")

    def create_token(self, command: CreateJoinToken, creator: str) -> Answer:
        """Add a join token of this member's."""
        if command.token_id in self._tokens:
            return Rejected(Reason.REQUEST_ID_REUSED, "this token exists; make another one")
        token = JoinToken(
            token_id=command.token_id,
            secret_hash=command.secret_hash,
            role=command.role,
            expires_at_ms=command.expires_at_ms,
            uses_max=command.uses_max,
            addresses=command.addresses,
            grant=command.grant,
            namespace=command.namespace,
            needs_approval=command.needs_approval,
            creator=creator,
        )
        self._tokens.put(token.token_id, token)
        return Accepted((command.token_id,))

    def revoke_token(self, token_id: str) -> Answer:
        """Revoke a join token; joiners waiting with it are rejected too."""
        if token_id not in self._tokens:
            return Rejected(
                Reason.TOKEN_INVALID, "there is no such join token; see `token list --join`"
            )
        self._tokens.drop(token_id)
        return Accepted()

    def revoke_tokens_of(self, creator: Did) -> None:
        """Revoke the tokens of a removed member, which could otherwise rejoin with them."""
        self._drop_tokens(lambda token: token.creator == creator)

    def redeem(self, command: RedeemJoinToken, at_ms: int) -> Answer:
        """Admit a joiner; `Accepted.ids` is its role, its incarnation and its preset."""
        refused = self.check_token(command.token_id)
        if refused is not None:
            return refused
        token = self._tokens[command.token_id]
        if not hmac.compare_digest(token.secret_hash, command.secret_hash):
            # Counted in the log, so that guesses at different masters add up.
            self._put_token(replace(token, failure_count=token.failure_count + 1))
            return Rejected(
                Reason.TOKEN_INVALID, "the token's secret is wrong; copy the whole token"
            )
        refused = self._judge(token, command, at_ms)
        if refused is not None:
            return refused
        if token.needs_approval:
            token, pending = joiners.await_decision(token, command, at_ms)
            if pending is not None:
                self._put_token(token)
                return pending
        self._put_token(joiners.let_in(token, command))
        incarnation = self.incarnation_last + 1 if token.role is Role.MASTER else 0
        self.put(
            Principal(
                did=command.did,
                name=command.name,
                role=token.role,
                endpoints=command.endpoints,
                incarnation=incarnation,
                enrolled_at_ms=at_ms,
                liveness_at_ms=at_ms,
                grant=token.grant,
                namespace=token.namespace,
                seal_key=command.seal_key if token.role is Role.MASTER else b"",
            )
        )
        return Accepted((token.role.value, str(incarnation), token.grant))

    def _judge(self, token: JoinToken, command: RedeemJoinToken, at_ms: int) -> Rejected | None:
        """Why a token with the right secret does not admit a joiner; None if it does."""
        if at_ms >= token.expires_at_ms:
            return Rejected(Reason.TOKEN_EXPIRED, "the token has expired; have a new one made")
        if len(token.dids) >= token.uses_max:
            return Rejected(
                Reason.TOKEN_USED, "the token has been used already; have a new one made"
            )
        outside = [e for e in command.endpoints if token.addresses and e not in token.addresses]
        if outside:
            return Rejected(
                Reason.INVALID_ARGUMENT,
                f"the token does not allow {outside[0]}; advertise one of "
                f"{', '.join(token.addresses)}",
            )
        known = self._principals.get(command.did)
        if known is not None and known.removed:
            # Its former permissions, its delegations and a thief of its key would return with it.
            return Rejected(
                Reason.TOKEN_INVALID,
                "this identity was removed for good; join with a new one, in another --home",
            )
        if known is not None:
            return Rejected(
                Reason.TOKEN_INVALID, "this identity is a member already; start it with `serve`"
            )
        return None

    def would_admit(self, command: RedeemJoinToken, at_ms: int) -> JoinToken | Rejected | None:
        """The token by which `redeem` would admit a joiner, or has; None: only `redeem` can tell.

        None is for a wrong secret, which `redeem` counts.
        """
        refused = self.check_token(command.token_id)
        if refused is not None:
            return refused
        token = self._tokens[command.token_id]
        if not hmac.compare_digest(token.secret_hash, command.secret_hash):
            return None
        known = self._principals.get(command.did)
        if known is not None and not known.removed and command.did in token.dids:
            return token
        return self._judge(token, command, at_ms) or token

    def check_joiner(self, command: RedeemJoinToken, at_ms: int) -> Rejected | None:
        """Why a joiner that presented its token before is not admitted: it may ask often."""
        token = self._tokens.get(command.token_id)
        if (
            token is None
            or at_ms >= token.expires_at_ms
            or not hmac.compare_digest(token.secret_hash, command.secret_hash)
        ):
            return None  # `redeem` reports what is wrong, and counts it.
        return joiners.judge(token, command)

    def decide(self, command: DecideJoiner, at_ms: int) -> Answer:
        """Approve a waiting joiner, which is admitted when it next asks, or reject it."""
        token = self._tokens.get(command.token_id)
        live = token is not None and at_ms < token.expires_at_ms
        decided = joiners.decide(token, command) if token is not None and live else None
        if decided is None:
            return Rejected(
                Reason.MEMBER_NOT_FOUND,
                "nobody of that id waits with that token; see `node joiners`",
            )
        self._put_token(decided)
        return Accepted()

    def _put_token(self, token: JoinToken) -> None:
        self._tokens.put_if_new(token.token_id, token)

    def token(self, token_id: str) -> JoinToken | None:
        """One join token."""
        return self._tokens.get(token_id)

    def register(self, command: RegisterNode, at_ms: int) -> bool:
        """Record a node's registration; False if it is not a member."""
        node = self.node(command.node_id)
        if node is None:
            return False
        self.put(
            replace(
                node,
                endpoints=command.endpoints,
                task_types=command.task_types,
                slot_count=command.slot_count,
                version=command.version,
                seal_key=command.seal_key if node.role is Role.MASTER else b"",
                enrolment_endpoints=command.enrolment_endpoints,
                liveness=Liveness.ALIVE,
                liveness_at_ms=at_ms,
            )
        )
        return True

    def set_liveness(self, node_id: NodeId, liveness: Liveness, at_ms: int) -> bool:
        """Set a node's liveness; False if it does not change."""
        node = self.node(node_id)
        if node is None or node.liveness is liveness:
            return False
        self.put(replace(node, liveness=liveness, liveness_at_ms=at_ms))
        return True

    def remove(self, node_id: NodeId) -> bool:
        """Remove a node or client for good; False if it is not a member."""
        did = did_from_node_id(node_id)
        member = self._principals.get(did)
        if member is None or member.removed:
            return False
        self._principals.put(did, replace(member, removed=True))
        return True

    def check_replacement(self, node_id: NodeId, damaged: int, *, votes: bool) -> Rejected | None:
        """Why a master may not start a new log; None if it may.

        `damaged` is the incarnation whose log is damaged, 0 if unknown; `votes` says whether the
        present one votes.
        """
        master = self.node(node_id)
        if master is None or master.role is not Role.MASTER:
            return Rejected(
                Reason.MEMBER_NOT_FOUND,
                "this node is no master of this cluster; join as a new one with another --home",
            )
        if damaged > master.incarnation or (0 < damaged < master.incarnation and votes):
            return Rejected(
                Reason.CALLER_NOT_ALLOWED,
                f"the log of incarnation {damaged} is not this master's, which is "
                f"{master.incarnation} by now; an old copy of its directory came back: stop it, "
                "and start the one that was used last",
            )
        return None

    def replace_log(self, command: ReplaceLog) -> Answer:
        """Give a master a new incarnation, `Accepted.ids`, that never had a log."""
        master = self.node(command.node_id)
        if master is None or master.incarnation != command.incarnation:
            return Rejected(
                Reason.MEMBERSHIP_CHANGE_IN_PROGRESS,
                "this master was removed or changed meanwhile; try again",
            )
        self.put(replace(master, incarnation=self.incarnation_last + 1))
        return Accepted((str(self.incarnation_last),))

    def check_token(self, token_id: str) -> Rejected | None:
        """Why a token is invalid, whatever the secret; None if it may be valid."""
        token = self._tokens.get(token_id)
        if token is None:
            return Rejected(
                Reason.TOKEN_INVALID,
                "this cluster did not make the token, or it was revoked; have a new one made",
            )
        if token.failure_count >= TOKEN_FAILURES_MAX:
            return Rejected(
                Reason.TOKEN_USED, "the token is locked after wrong secrets; have a new one made"
            )
        return None

    def expire_tokens(self, at_ms: int, keep_ms: int) -> None:
        """Delete tokens some time after their expiry, so that a late joiner still learns why."""
        self._drop_tokens(lambda token: at_ms >= token.expires_at_ms + keep_ms)

    def _drop_tokens(self, ended: Callable[[JoinToken], bool]) -> None:
        for token in [token for token in self._tokens.values() if ended(token)]:
            self._tokens.drop(token.token_id)


def most_say_removed(said: Collection[bool]) -> bool:
    """Whether a node was removed, by what each other master that it knows says; silence is False.

    More than half must say so. One master's word is not enough: it may have gone on alone
    (`recover alone`), which removes all the others there, while they still have a majority and go
    on. Such a master is at most half of the others only where the node has no majority without it.
    """
    return 2 * sum(said) > len(said)
