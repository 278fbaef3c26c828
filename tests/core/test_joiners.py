"""Joiners that wait for approval."""

from dataclasses import replace
from typing import Any, Final

import pytest

from ipfs_cluster_node.codec.commands import decode_command, encode_command
from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core.commands import (
    CommandBody,
    CreateJoinToken,
    DecideJoiner,
    LogCommand,
    RedeemJoinToken,
    RemoveNode,
)
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import Did, did_from_public_key, node_id_from_did
from ipfs_cluster_node.core.joiners import JOINERS_PER_TOKEN_MAX
from ipfs_cluster_node.core.model import Principal, Role
from ipfs_cluster_node.core.state import ClusterState

OPERATOR: Final = did_from_public_key(b"o" * 32)
ASKS: Final = RedeemJoinToken(
    token_id="k",
    secret_hash=b"s",
    did=did_from_public_key(b"j" * 32),
    name="joiner",
    endpoints=("a:1",),
)
APPROVED: Final = DecideJoiner(token_id="k", did=ASKS.did, approved=True)
TOKEN: Final = CreateJoinToken(
    token_id="k",
    secret_hash=b"s",
    role=Role.WORKER,
    expires_at_ms=9_000,
    uses_max=1,
    addresses=(),
    needs_approval=True,
)


class Machine:
    """A state whose commands go through the log's form."""

    def __init__(self) -> None:
        self.state = ClusterState()
        self.now_ms = 1_000
        self.do(TOKEN)

    def do(self, body: CommandBody, request_id: str = "", caller: Did = OPERATOR) -> Any:
        command = LogCommand(at_ms=self.now_ms, body=body, caller=caller, request_id=request_id)
        return self.state.apply(decode_command(encode_command(command))).outcome

    def reload(self) -> None:
        self.state = ClusterState(decode_snapshot(list(encode_snapshot(self.state.data()))))


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_joiner_waits_until_it_is_approved(machine: Machine) -> None:
    assert machine.do(ASKS, "join", ASKS.did).reason is Reason.APPROVAL_PENDING
    assert machine.do(ASKS, "join", ASKS.did).reason is Reason.APPROVAL_PENDING
    assert machine.state.members.get(ASKS.did) is None
    machine.reload()
    assert isinstance(machine.do(APPROVED, "decide"), Accepted)
    assert machine.state.members.get(ASKS.did) is None
    machine.reload()
    assert machine.do(ASKS, "join", ASKS.did) == Accepted(("worker", "0", ""))
    # The answer may be lost on its way.
    assert machine.do(ASKS, "join", ASKS.did) == Accepted(("worker", "0", ""))
    token = machine.state.members.token("k")
    assert token is not None
    assert (token.joiners, token.dids) == ((), (ASKS.did,))


def test_a_joiner_that_is_rejected_is_told_and_the_decision_may_change(machine: Machine) -> None:
    machine.do(ASKS)
    machine.do(replace(APPROVED, approved=False))
    machine.reload()
    assert machine.do(ASKS).reason is Reason.JOIN_REJECTED
    assert machine.do(replace(ASKS, name="another")).reason is Reason.JOIN_REJECTED
    machine.do(APPROVED)
    assert isinstance(machine.do(ASKS), Accepted)


def test_one_approval_lets_nobody_else_in(machine: Machine) -> None:
    other = replace(ASKS, did=did_from_public_key(b"x" * 32))
    machine.do(other)
    machine.do(ASKS)
    machine.do(APPROVED)
    assert machine.do(other).reason is Reason.APPROVAL_PENDING
    assert isinstance(machine.do(ASKS), Accepted)
    machine.do(replace(APPROVED, did=other.did))
    assert machine.do(other).reason is Reason.TOKEN_USED


def test_who_was_approved_comes_in_as_it_was_shown(machine: Machine) -> None:
    machine.do(ASKS)
    machine.do(APPROVED)
    for changed in (replace(ASKS, endpoints=("b:1",)), replace(ASKS, name="other")):
        assert machine.do(changed).reason is Reason.INVALID_ARGUMENT
        assert machine.state.members.get(ASKS.did) is None


def test_who_waits_with_a_token_whose_maker_is_removed_waits_no_more(machine: Machine) -> None:
    """Otherwise a joiner that it approved could still join after its removal."""
    maker = Principal(did=OPERATOR, name="o", role=Role.CLIENT, enrolled_at_ms=1, liveness_at_ms=1)
    machine.state.members.put(maker)
    machine.do(ASKS)
    machine.do(APPROVED)
    machine.do(RemoveNode(node_id=node_id_from_did(OPERATOR)))
    machine.reload()
    assert machine.state.members.tokens() == ()
    assert machine.do(ASKS).reason is Reason.TOKEN_INVALID
    assert machine.state.members.get(ASKS.did) is None


def test_an_approval_is_for_one_token(machine: Machine) -> None:
    """Otherwise an operator who may admit workers could admit the same identity as a master."""
    machine.do(replace(TOKEN, token_id="m", role=Role.MASTER))
    machine.do(replace(ASKS, token_id="m"))
    assert machine.do(APPROVED).reason is Reason.MEMBER_NOT_FOUND
    machine.do(ASKS)
    machine.do(APPROVED)
    assert machine.do(replace(ASKS, token_id="m")).reason is Reason.APPROVAL_PENDING


def test_a_token_ends_for_those_who_wait_too(machine: Machine) -> None:
    machine.do(ASKS)
    machine.now_ms = TOKEN.expires_at_ms
    assert machine.do(APPROVED).reason is Reason.MEMBER_NOT_FOUND
    assert machine.do(ASKS).reason is Reason.TOKEN_EXPIRED


def test_a_wrong_secret_does_not_wait(machine: Machine) -> None:
    assert machine.do(replace(ASKS, secret_hash=b"x")).reason is Reason.TOKEN_INVALID
    assert machine.do(APPROVED).reason is Reason.MEMBER_NOT_FOUND
    members = machine.state.members
    machine.do(ASKS)
    # The leader checks the state before it writes: repeats do not grow the log.
    pending = members.check_joiner(ASKS, 1_000)
    assert isinstance(pending, Rejected)
    assert pending.reason is Reason.APPROVAL_PENDING
    assert members.check_joiner(replace(ASKS, secret_hash=b"x"), 1_000) is None
    assert members.check_joiner(replace(ASKS, did=OPERATOR), 1_000) is None
    assert members.check_joiner(ASKS, TOKEN.expires_at_ms) is None


def test_a_token_does_not_gather_joiners_without_end(machine: Machine) -> None:
    for number in range(JOINERS_PER_TOKEN_MAX):
        one = replace(ASKS, did=did_from_public_key(bytes([number]) * 32))
        assert machine.do(one).reason is Reason.APPROVAL_PENDING
    assert machine.do(ASKS).reason is Reason.TOKEN_USED


def test_to_ask_whether_a_token_lets_one_in_changes_nothing() -> None:
    machine = Machine()
    members = machine.state.members
    before = machine.state.data()
    admitted = members.would_admit(ASKS, 1_000)
    assert admitted == members.token("k")
    assert members.would_admit(replace(ASKS, secret_hash=b"wrong"), 1_000) is None
    for command, at_ms, reason in (
        (ASKS, 9_000, Reason.TOKEN_EXPIRED),
        (replace(ASKS, token_id="other"), 1_000, Reason.TOKEN_INVALID),
    ):
        refused = members.would_admit(command, at_ms)
        assert isinstance(refused, Rejected)
        assert refused.reason is reason
    assert machine.state.data() == before
    machine.do(ASKS, "r", ASKS.did)
    machine.do(APPROVED)
    assert isinstance(machine.do(ASKS, "r", ASKS.did), Accepted)
    # It admits those again whom it has admitted, and nobody else.
    assert members.would_admit(ASKS, 1_000) == members.token("k")
    other = replace(ASKS, did=did_from_public_key(b"x" * 32))
    refused = members.would_admit(other, 1_000)
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.TOKEN_USED
