"""Members in the replicated state: tokens, removal, replaced logs."""

from dataclasses import replace

import pytest

from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import Did, did_from_public_key
from ipfs_cluster_node.core.model import Liveness, Role
from tests.support.worlds import CLIENT, JOINER, KEYS, MASTER, WORKER, World

JOINER_DID = did_from_public_key(KEYS[3])


def redeem(world: World, secret: bytes = b"s", did: Did = JOINER_DID):  # type: ignore[no-untyped-def]
    return world.do(
        c.RedeemJoinToken(token_id="k", secret_hash=secret, did=did, name="j", endpoints=("a:1",))
    )


@pytest.fixture
def token() -> c.CreateJoinToken:
    return c.CreateJoinToken(
        token_id="k",
        secret_hash=b"s",
        role=Role.MASTER,
        expires_at_ms=9_000,
        uses_max=1,
        addresses=(),
    )


def test_a_token_lets_one_in_and_gives_a_master_a_new_incarnation(
    world: World, token: c.CreateJoinToken
) -> None:
    world.do(token)
    assert redeem(world) == Accepted(("master", "2", ""))
    assert redeem(world, did=CLIENT).reason is Reason.TOKEN_USED


def test_a_token_ends_and_is_locked_by_wrong_secrets(
    world: World, token: c.CreateJoinToken
) -> None:
    assert redeem(world).reason is Reason.TOKEN_INVALID
    world.do(token)
    for _ in range(10):
        assert redeem(world, b"wrong").reason is Reason.TOKEN_INVALID
    assert redeem(world).reason is Reason.TOKEN_USED
    world.do(replace(token, token_id="k2"))
    world.now_ms = 9_000
    late = c.RedeemJoinToken(token_id="k2", secret_hash=b"s", did=CLIENT, name="j", endpoints=())
    assert world.do(late).reason is Reason.TOKEN_EXPIRED


def test_a_token_may_fix_the_addresses(world: World, token: c.CreateJoinToken) -> None:
    world.do(replace(token, addresses=("b:1",)))
    assert redeem(world).reason is Reason.INVALID_ARGUMENT


def test_liveness_is_noted_once(world: World) -> None:
    world.do(c.SetLiveness(dead=(WORKER,)))
    node = world.state.members.node(WORKER)
    assert node is not None
    assert node.liveness is Liveness.DEAD


def test_who_was_removed_is_not_let_in_again_by_repeating_its_enrolment(
    world: World, token: c.CreateJoinToken
) -> None:
    world.do(token)
    did = did_from_public_key(KEYS[3])
    body = c.RedeemJoinToken(token_id="k", secret_hash=b"s", did=did, name="j", endpoints=("a:1",))
    assert isinstance(world.do(body, "join", caller=did), Accepted)
    assert isinstance(world.do(body, "join", caller=did), Accepted)
    other = replace(body, endpoints=("evil:1",))
    assert isinstance(world.do(other, "join", caller=did), Rejected)
    world.do(c.RemoveNode(node_id=JOINER))
    refused = world.do(body, "join", caller=did)
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.TOKEN_USED


def test_a_client_can_be_removed(world: World) -> None:
    world.do(
        c.CreateJoinToken(
            token_id="c",
            secret_hash=b"s",
            role=Role.CLIENT,
            expires_at_ms=10_000,
            uses_max=1,
            addresses=(),
        )
    )
    did = did_from_public_key(KEYS[3])
    body = c.RedeemJoinToken(token_id="c", secret_hash=b"s", did=did, name="p", endpoints=())
    assert isinstance(world.do(body), Accepted)
    assert isinstance(world.do(c.RemoveNode(node_id=JOINER)), Accepted)
    member = world.state.members.get(did)
    assert member is not None
    assert member.removed


def test_a_lost_log_is_replaced_under_a_name_that_none_was_kept_under(world: World) -> None:
    ask = c.ReplaceLog(node_id=MASTER, incarnation=1)
    assert world.do(ask, "first") == Accepted(("2",))
    # A repeat gets the first answer, whatever incarnation the leader saw when it proposed it.
    repeated = c.ReplaceLog(node_id=MASTER, incarnation=2)
    assert world.do(repeated, "first") == Accepted(("2",))
    # Another request does not: nobody knows whether a log was begun under the first answer.
    assert world.do(repeated, "second") == Accepted(("3",))
    # What the leader saw has changed meanwhile.
    refused = world.do(repeated, "third")
    assert refused.reason is Reason.MEMBERSHIP_CHANGE_IN_PROGRESS
    member = world.state.members.node(MASTER)
    assert member is not None
    assert member.incarnation == 3
    # Nor does a joining master get a name that was given already.
    assert world.state.data().incarnation_last == 3


def test_only_a_masters_own_log_is_replaced(world: World) -> None:
    members = world.state.members
    world.do(c.ReplaceLog(node_id=MASTER, incarnation=1), "first")
    for damaged, votes, reason in (
        (2, True, None),
        (2, False, None),
        (0, True, None),  # It can't say which: the directory is gone.
        (1, False, None),  # The answer was lost.
        (1, True, Reason.CALLER_NOT_ALLOWED),  # An old disk came back.
        (3, False, Reason.CALLER_NOT_ALLOWED),
    ):
        refused = members.check_replacement(MASTER, damaged, votes=votes)
        assert (refused.reason if refused else None) is reason, (damaged, votes)
    for other in (WORKER, JOINER):
        refused = members.check_replacement(other, 0, votes=False)
        assert refused is not None
        assert refused.reason is Reason.MEMBER_NOT_FOUND
    world.do(c.RemoveNode(node_id=MASTER))
    refused = members.check_replacement(MASTER, 2, votes=False)
    assert refused is not None
    assert refused.reason is Reason.MEMBER_NOT_FOUND
