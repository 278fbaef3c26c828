"""The delegations and revocations that the cluster stores."""

from dataclasses import replace
from hashlib import sha256

import pytest

from ipfs_cluster_node.codec.commands import decode_command, encode_command
from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core import delegations as module
from ipfs_cluster_node.core.commands import (
    BootstrapCluster,
    CommandBody,
    ExpireRecords,
    LogCommand,
    PutDelegation,
    RemoveNode,
    RevokeDelegation,
)
from ipfs_cluster_node.core.delegations import FORGET_AFTER_S, StoredDelegation, StoredRevocation
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import Did, did_from_public_key, node_id_from_did
from ipfs_cluster_node.core.model import Principal, Role
from ipfs_cluster_node.core.multiformats import DAG_CBOR, Cid
from ipfs_cluster_node.core.state import ClusterState

AUTHORITY, ALICE, BOB, CAROL = (did_from_public_key(bytes([n]) * 32) for n in range(4))
END_S = 1_000


def stored(name: str, issuer: Did, audience: Did, expires_s: int = END_S) -> StoredDelegation:
    token = name.encode()
    cid = Cid(DAG_CBOR, sha256(token).digest())
    return StoredDelegation(
        cid=cid, token=token, issuer=issuer, audience=audience, expires_s=expires_s, put_at_ms=1
    )


class World:
    def __init__(self) -> None:
        self.state = ClusterState()
        self.to_alice = stored("alice", AUTHORITY, ALICE)
        principals = (
            Principal(
                did=ALICE,
                name="alice",
                role=Role.CLIENT,
                grant="operator",
                enrolled_at_ms=1,
                liveness_at_ms=1,
            ),
        )
        self.do(
            BootstrapCluster(
                cluster_id="c",
                cluster_name="c",
                cluster_did=AUTHORITY,
                principals=principals,
                delegations=(self.to_alice,),
            )
        )

    def do(self, body: CommandBody, at_ms: int = 1) -> Accepted | Rejected:
        command = LogCommand(at_ms=at_ms, body=body)
        assert decode_command(encode_command(command)) == command
        return self.state.apply(command).outcome

    def put(self, *delegations: StoredDelegation) -> Accepted | Rejected:
        return self.do(PutDelegation(delegations=delegations))

    def revoke(self, cid: Cid, revoker: Did, until_s: int = END_S) -> None:
        revocation = StoredRevocation(cid, revoker, until_s)
        assert isinstance(self.do(RevokeDelegation(revocation=revocation)), Accepted)


@pytest.fixture
def world() -> World:
    return World()


def test_a_chain_is_found_through_everybody_on_it(world: World) -> None:
    to_bob, to_carol = stored("bob", ALICE, BOB), stored("carol", BOB, CAROL)
    back = stored("back", CAROL, ALICE)
    other = stored("other", AUTHORITY, did_from_public_key(bytes([9]) * 32))
    assert world.put(to_bob, to_carol, back, other) == Accepted(
        tuple(str(d.cid) for d in (to_bob, to_carol, back, other))
    )
    chain = world.state.delegations.chain_of(CAROL)
    assert {d.cid for d in chain} == {d.cid for d in (to_bob, to_carol, back, world.to_alice)}
    assert world.state.delegations.chain_of(Did("did:key:z6Mknobody")) == []


def test_what_came_twice_is_kept_once_and_changes_nothing(world: World) -> None:
    world.put(stored("bob", ALICE, BOB))
    version = world.state.delegations.version
    world.put(stored("bob", ALICE, BOB))
    assert world.state.delegations.version == version
    assert len(world.state.delegations) == len([world.to_alice, "bob"])


def test_a_revocation_is_remembered_and_its_issuers_delegation_is_not(world: World) -> None:
    to_bob = stored("bob", ALICE, BOB)
    world.put(to_bob)
    version = world.state.delegations.version
    world.revoke(to_bob.cid, AUTHORITY)
    assert world.state.delegations.get(to_bob.cid) == to_bob  # The chain says whether that counts.
    world.revoke(to_bob.cid, ALICE)
    assert world.state.delegations.get(to_bob.cid) is None
    assert world.state.delegations.revocations == {to_bob.cid: frozenset({ALICE, AUTHORITY})}
    assert world.state.delegations.version > version
    world.revoke(Cid(DAG_CBOR, bytes(32)), ALICE)  # Before anybody saw it.
    assert len(world.state.delegations.revocations) == len([to_bob, "unseen"])


def test_what_has_ended_goes(world: World) -> None:
    late = stored("late", ALICE, BOB, END_S + 1)
    world.put(late)
    world.revoke(late.cid, BOB, END_S)
    world.revoke(late.cid, CAROL, END_S + 1)
    world.do(ExpireRecords(), at_ms=1000 * (END_S + FORGET_AFTER_S))
    assert world.state.delegations.delegations() == (late,)
    assert world.state.delegations.revocations == {late.cid: frozenset({CAROL})}
    assert world.state.delegations.chain_of(ALICE) == []
    world.do(ExpireRecords(), at_ms=1000 * (END_S + 1 + FORGET_AFTER_S))
    assert len(world.state.delegations) == 0
    assert world.state.delegations.revocations == {}


def test_who_is_removed_has_nothing_left(world: World) -> None:
    world.put(stored("bob", ALICE, BOB))
    version = world.state.delegations.version
    world.do(RemoveNode(node_id=node_id_from_did(ALICE)))
    assert [d.audience for d in world.state.delegations.delegations()] == [BOB]
    assert world.state.delegations.version > version


def test_too_many_are_refused_and_none_of_them_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DELEGATIONS_PER_AUDIENCE_MAX", 2)

    def to_bob(number: int) -> StoredDelegation:
        return replace(stored(f"b{number}", ALICE, BOB), put_by=CAROL)

    refused = world.put(*map(to_bob, range(3)))
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.TOO_MANY_DELEGATIONS
    assert world.state.delegations.chain_of(BOB) == []
    assert isinstance(world.put(*map(to_bob, range(2))), Accepted)
    assert isinstance(world.put(to_bob(1)), Accepted)
    monkeypatch.setattr(module, "DELEGATIONS_MAX", 2)
    by_carol = replace(stored("c", ALICE, CAROL), put_by=CAROL)
    assert isinstance(world.put(by_carol), Rejected)
    # What the cluster itself gives, with a renewal, always finds room.
    own = stored("own", AUTHORITY, ALICE)
    assert isinstance(world.put(own), Accepted)
    assert world.state.delegations.get(own.cid) is not None
    assert isinstance(world.put(by_carol), Rejected)
    monkeypatch.setattr(module, "REVOCATIONS_MAX", 0)
    revocation = StoredRevocation(world.to_alice.cid, ALICE, END_S)
    assert isinstance(world.do(RevokeDelegation(revocation=revocation)), Rejected)
    # And what is revoked in its name as well.
    world.revoke(world.to_alice.cid, AUTHORITY)


def test_what_a_removed_client_had_kept_makes_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DELEGATIONS_MAX", 2)
    mine = [replace(stored(f"m{n}", ALICE, BOB), put_by=ALICE) for n in range(2)]
    assert isinstance(world.put(*mine), Accepted)
    assert isinstance(world.put(replace(stored("x", BOB, CAROL), put_by=BOB)), Rejected)
    world.do(RemoveNode(node_id=node_id_from_did(ALICE)))
    assert world.state.delegations.delegations() == ()
    assert isinstance(world.put(replace(stored("x", BOB, CAROL), put_by=BOB)), Accepted)


def test_a_grant_that_was_revoked_is_gone_in_all_its_copies(world: World) -> None:
    """A renewal gives another copy; one that was already under way gives nothing."""
    copies = [stored(f"copy{n}", AUTHORITY, ALICE) for n in range(3)]
    world.put(*copies)
    ended = RevokeDelegation(
        revocation=StoredRevocation(world.to_alice.cid, AUTHORITY, END_S),
        copies=tuple(StoredRevocation(copy.cid, AUTHORITY, END_S) for copy in copies),
    )
    assert isinstance(world.do(ended), Accepted)
    assert world.state.delegations.chain_of(ALICE) == []
    assert all(AUTHORITY in world.state.delegations.revocations[copy.cid] for copy in copies)
    late = stored("late", AUTHORITY, ALICE)
    assert isinstance(world.put(late), Accepted)
    assert world.state.delegations.get(late.cid) is None


def test_revoking_one_command_of_a_preset_leaves_the_others(world: World) -> None:
    """A renewal under way brings back the others only, and so does every later one."""
    reads, lists = (
        replace(stored(command, AUTHORITY, ALICE), command=command)
        for command in ("/task/read", "/cluster/member/list")
    )
    world.put(reads, lists)
    world.revoke(reads.cid, AUTHORITY)
    alice = world.state.members.get(ALICE)
    assert alice is not None
    assert (alice.grant, alice.ended_commands) == ("operator", ("/task/read",))
    again = [
        replace(stored(f"again {each.command}", AUTHORITY, ALICE), command=each.command)
        for each in (reads, lists)
    ]
    assert isinstance(world.put(*again), Accepted)
    assert [d.cid in {a.cid for a in world.state.delegations.delegations()} for d in again] == [
        False,
        True,
    ]
    loaded = ClusterState(decode_snapshot(encode_snapshot(world.state.data())))
    assert loaded.data() == world.state.data()
    world.revoke(again[1].cid, AUTHORITY)
    alice = world.state.members.get(ALICE)
    assert alice is not None
    assert alice.ended_commands == ("/task/read", "/cluster/member/list")


def test_one_client_can_not_fill_the_table_for_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DELEGATIONS_PER_PUTTER_MAX", 2)
    monkeypatch.setattr(module, "REVOCATIONS_PER_REVOKER_MAX", 2)
    by_alice = [
        replace(stored(f"{n}", ALICE, did_from_public_key(bytes([n]) * 32)), put_by=ALICE)
        for n in range(10, 14)
    ]
    assert isinstance(world.put(*by_alice[:3]), Rejected)
    assert isinstance(world.put(*by_alice[:2]), Accepted)
    assert isinstance(world.put(by_alice[2]), Rejected)
    assert isinstance(world.put(replace(by_alice[2], put_by=BOB)), Accepted)
    assert isinstance(world.put(replace(by_alice[3], put_by="")), Accepted)
    world.revoke(by_alice[0].cid, ALICE)  # Makes room.
    assert isinstance(world.put(by_alice[0]), Accepted)
    world.revoke(by_alice[1].cid, ALICE)
    world.revoke(by_alice[1].cid, ALICE)  # Counted once.
    third = StoredRevocation(by_alice[2].cid, ALICE, END_S)
    refused = world.do(RevokeDelegation(revocation=third))
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.TOO_MANY_DELEGATIONS
    world.revoke(by_alice[2].cid, BOB)


def test_a_snapshot_holds_them(world: World) -> None:
    world.put(stored("bob", ALICE, BOB), stored("carol", BOB, CAROL))
    world.revoke(stored("bob", ALICE, BOB).cid, AUTHORITY)
    data = world.state.data()
    again = ClusterState(decode_snapshot(encode_snapshot(data)))
    assert again.data() == data
    assert again.cluster_did == AUTHORITY
    assert {d.cid for d in again.delegations.chain_of(CAROL)} == {
        d.cid for d in world.state.delegations.chain_of(CAROL)
    }


def test_one_client_can_not_take_all_the_room_of_another(world: World) -> None:
    junk = [replace(stored(f"j{n}", ALICE, BOB), put_by=ALICE) for n in range(9)]
    assert isinstance(world.put(*junk[:8]), Accepted)
    assert isinstance(world.put(junk[8]), Rejected)
    assert isinstance(world.put(replace(junk[8], put_by=CAROL)), Accepted)


def test_a_chain_is_looked_for_no_further_than_it_may_be_long(world: World) -> None:
    """Otherwise one call would search everything that is stored."""
    people = [did_from_public_key(bytes([n]) * 32) for n in range(50, 70)]
    world.put(*(stored(f"p{n}", people[n], people[n + 1]) for n in range(19)))
    chain = world.state.delegations.chain_of(people[19])
    assert [d.issuer for d in chain] == people[18:10:-1]
