"""The tokens of a call are added to those that are stored for its caller."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.access.authorizer import KEPT_LINKS_MAX, Authorizer
from ipfs_cluster_node.access.call_tokens import NOTHING, CallTokens
from ipfs_cluster_node.access.context import Caller, CallerClass
from ipfs_cluster_node.access.rules import RULES_BY_METHOD, Rule
from ipfs_cluster_node.codec.delegations import stored_delegation
from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.core.commands import (
    BootstrapCluster,
    LogCommand,
    PutDelegation,
    RemoveNode,
    RevokeDelegation,
)
from ipfs_cluster_node.core.delegations import StoredRevocation
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did, node_id_from_did
from ipfs_cluster_node.core.model import Principal, Role
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.v1 import membership_pb2, task_dispatch_pb2
from tests.support.ucan import ALICE, BOB, CLUSTER, MALLORY, NOW, Actor, actor, validator
from tests.support.virtual_time import loop_clock

LIST_NODES = next(rule for name, rule in RULES_BY_METHOD.items() if name.endswith("/ListNodes"))
HEALTH = next(rule for name, rule in RULES_BY_METHOD.items() if name.endswith("/GetHealth"))
CANCEL = next(rule for name, rule in RULES_BY_METHOD.items() if name.endswith("/CancelTask"))
STATUS = next(r for name, r in RULES_BY_METHOD.items() if name.endswith("/GetClusterStatus"))
REFLECTION = next(r for name, r in RULES_BY_METHOD.items() if name.endswith("ReflectionInfo"))
TO_LIST = ALICE.delegates(BOB, "/cluster/member/list")
TO_CANCEL = ALICE.delegates(BOB, "/task/cancel")
TEAM = [["==", ".namespace", "team-a"]]


@dataclass
class World:
    """A master that stores a delegation for BOB: he may list nodes."""

    now_s: int = NOW

    def __post_init__(self) -> None:
        self.state = ClusterState()
        people = [(ALICE, Role.CLIENT), (BOB, Role.CLIENT), (MALLORY, Role.WORKER)]
        self.do(
            BootstrapCluster(
                cluster_id="c",
                cluster_name="c",
                cluster_did=CLUSTER.did,
                principals=tuple(
                    Principal(did=actor.did, name="", role=role, enrolled_at_ms=1, liveness_at_ms=1)
                    for actor, role in people
                ),
                delegations=(),
            )
        )
        self.keep(CLUSTER.delegates(ALICE, "/"), TO_LIST)
        holder: Any = SimpleNamespace(
            known_state=lambda: self.state, state=lambda: self.state, removal=None
        )
        self.holder = holder
        self.authorizer = Authorizer(
            node_id=node_id_from_did(ALICE.did),
            holder=holder,
            now_ms=lambda: 1000 * self.now_s,
            clock=loop_clock(),
        )

    def do(self, body: Any) -> None:
        self.state.apply(LogCommand(at_ms=1000 * NOW, body=body))

    def keep(self, *tokens: bytes, put_by: Actor = ALICE) -> None:
        kept = (
            stored_delegation(validator().delegation(token), token, at_ms=1, put_by=put_by.did)
            for token in tokens
        )
        self.do(PutDelegation(delegations=tuple(kept)))

    def keep_many(self, number: int, each: int) -> None:
        """Keep delegations by way of `number` others, each by `each` links."""
        for way in [actor(100 + n) for n in range(number)]:
            self.keep(way.delegates(BOB, "/cluster/member/list"), put_by=way)
            for n in range(each):
                token = ALICE.delegates(way, "/cluster/member/list", nonce=n.to_bytes(12))
                self.keep(token, put_by=(ALICE, BOB, MALLORY, way)[n // 8])

    async def call(
        self,
        rule: Rule,
        tokens: Sequence[bytes] = (),
        *,
        caller: Actor = BOB,
        kind: CallerClass = CallerClass.CLIENT,
        proofs: str = "",
    ) -> Any:
        brought = NOTHING
        if tokens or proofs:
            brought = CallTokens(write_container(tokens) if tokens else "", proofs)
        request: Any = membership_pb2.ListNodesRequest()
        if rule is CANCEL:
            request = task_dispatch_pb2.CancelTaskRequest(task_id="t")
        return await self.authorizer.decide(Caller(caller.did, kind), rule, request, brought)

    async def refused(self, rule: Rule, tokens: Sequence[bytes] = (), **how: Any) -> ClusterError:
        with pytest.raises(ClusterError) as caught:
            await self.call(rule, tokens, **how)
        return caught.value


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.asyncio
async def test_who_brings_a_token_may_also_do_what_is_kept_for_it(world: World) -> None:
    """A reader that brought `/task` could no longer list the nodes, so clients had to choose."""
    assert (await world.refused(CANCEL)).reason is Reason.NOT_DELEGATED
    assert await world.call(CANCEL, [TO_CANCEL])
    assert await world.call(LIST_NODES, [TO_CANCEL])
    assert await world.call(STATUS, [TO_CANCEL])


@pytest.mark.asyncio
async def test_a_narrower_token_neither_widens_nor_narrows_what_is_kept(world: World) -> None:
    narrow = ALICE.delegates(BOB, "/task/cancel", policy=TEAM)
    error = await world.refused(CANCEL, [narrow])
    assert (error.reason, error.metadata["ucan_error"]) == (Reason.NOT_DELEGATED, "MatchError")
    assert await world.call(LIST_NODES, [narrow])
    world.keep(TO_CANCEL)
    assert await world.call(CANCEL, [narrow])
    # To limit a call, it names the delegations to use.
    named = str(cid_of_token(TO_LIST))
    assert await world.call(LIST_NODES, proofs=named)
    error = await world.refused(CANCEL, proofs=named)
    assert error.metadata["ucan_error"] == "InvalidCommand"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("token", "name"),
    [
        (ALICE.delegates(BOB, "/task/cancel", expires_s=NOW - 3600), "Expired"),
        (ALICE.delegates(BOB, "/task/cancel", not_before_s=NOW + 3000), "TooEarly"),
        (TO_CANCEL[:-1] + bytes([TO_CANCEL[-1] ^ 1]), "InvalidSignature"),
        (b"no token", "Malformed"),
    ],
)
async def test_a_bad_token_is_refused_whatever_else_would_allow_the_call(
    world: World, token: bytes, name: str
) -> None:
    for rule in (CANCEL, LIST_NODES, STATUS, REFLECTION):
        error = await world.refused(rule, [token])
        assert error.reason is Reason.DELEGATION_INVALID
        if name != "InvalidSignature":
            assert error.metadata["ucan_error"] == name
    node = {"caller": MALLORY, "kind": CallerClass.NODE}
    assert (await world.refused(LIST_NODES, [token], **node)).reason is Reason.DELEGATION_INVALID


@pytest.mark.asyncio
async def test_a_revoked_token_adds_nothing_and_takes_nothing(world: World) -> None:
    world.keep(TO_CANCEL)
    revoked = StoredRevocation(cid_of_token(TO_CANCEL), ALICE.did, NOW + 3600)
    world.do(RevokeDelegation(revocation=revoked))
    error = await world.refused(CANCEL, [TO_CANCEL])
    assert (error.reason, error.metadata["ucan_error"]) == (Reason.NOT_DELEGATED, "Revoked")
    assert await world.call(LIST_NODES, [TO_CANCEL])


@pytest.mark.asyncio
async def test_tokens_of_others_give_the_caller_nothing(world: World) -> None:
    """Neither the token of another principal, nor what is stored for its audience."""
    world.keep(CLUSTER.delegates(MALLORY, "/task"))
    for token in (
        ALICE.delegates(MALLORY, "/task/cancel"),
        CLUSTER.delegates(ALICE, "/"),
        BOB.delegates(MALLORY, "/task/cancel"),
        BOB.delegates(BOB, "/task/cancel"),
    ):
        assert (await world.refused(CANCEL, [token])).reason is Reason.NOT_DELEGATED
        assert await world.call(LIST_NODES, [token])


@pytest.mark.asyncio
async def test_a_removed_callers_tokens_are_void(world: World) -> None:
    world.do(RemoveNode(node_id=node_id_from_did(Did(BOB.did))))
    assert (await world.refused(CANCEL, [TO_CANCEL])).metadata["ucan_error"] == "Revoked"
    assert (await world.refused(LIST_NODES, [TO_CANCEL])).reason is Reason.NOT_DELEGATED


@pytest.mark.asyncio
async def test_a_node_may_bring_tokens_where_its_role_is_enough(world: World) -> None:
    """A node that sent a token was once judged by the token alone."""
    assert await world.call(LIST_NODES, [TO_CANCEL], caller=MALLORY, kind=CallerClass.NODE)


@pytest.mark.asyncio
async def test_a_removed_master_decides_nothing_by_its_copy(world: World) -> None:
    await world.call(LIST_NODES)
    refusal = ClusterError(Reason.NODE_REMOVED, "removed")

    def check() -> None:
        raise refusal

    world.holder.removal, world.holder.check_in_cluster = refusal, check
    assert await world.refused(LIST_NODES) is refusal
    # Its health may be asked for as before.
    assert (await world.refused(HEALTH)).reason is Reason.NOT_DELEGATED


@pytest.mark.asyncio
async def test_no_token_of_a_joiner_is_verified(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anyone reaches the enrolment port: its calls could cost signatures before any limit."""
    monkeypatch.setattr(world.authorizer, "validator", lambda _state: pytest.fail("verified"))
    for tokens in ([TO_CANCEL], [b"no token"]):
        error = await world.refused(STATUS, tokens, kind=CallerClass.JOINER)
        assert error.reason is Reason.INVALID_ARGUMENT


@pytest.mark.asyncio
async def test_a_denial_gathers_what_is_kept_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[Any] = []
    kept = world.authorizer.kept

    def noted(holders: Any) -> Any:
        gathered.append(holders)
        return kept(holders)

    plain = await world.refused(CANCEL, [TO_LIST])
    monkeypatch.setattr(world.authorizer, "kept", noted)
    message = world.authorizer.denied(BOB.did, plain).message
    assert "you may not cancel tasks" in message
    assert gathered == [[BOB.did]]


@pytest.mark.asyncio
async def test_a_denial_of_one_with_many_links_is_not_put_in_words(world: World) -> None:
    """The words took 15 ms of the event loop for a client with 990 links, as often as it asked."""
    world.keep_many(2, 2)
    assert "ask an operator" in (await world.refused(CANCEL)).message
    world.keep_many(8, 8)
    assert len(world.authorizer.kept([BOB.did])) > KEPT_LINKS_MAX
    error = await world.refused(CANCEL)
    assert "ask an operator" not in error.message
    assert "auth explain" in error.message
