"""How a caller is identified, by the log and by what the uplink received."""

from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.identify import REMOVED_KEY, MemberIdentification
from ipfs_cluster_node.access.revocations import Revocations
from ipfs_cluster_node.cluster.certificates.revocations import RevocationList
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.core.commands import BootstrapCluster, LogCommand, RemoveNode
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import Principal, Role
from tests.support.tls import Context, Member, certified, enrol, make_ca
from tests.support.virtual_time import now_ms, utc_now


def identify_with(path: Path, known: Member) -> tuple[MemberIdentification, PeerBook, Any]:
    machine, peers = ReplicatedStateMachine(), PeerBook(path / "masters")
    principal = Principal(
        did=known.identity.did,
        name="m",
        role=Role.MASTER,
        incarnation=1,
        enrolled_at_ms=1,
        liveness_at_ms=1,
    )
    body = BootstrapCluster(
        cluster_id="id", cluster_name="name", cluster_did=principal.did, principals=(principal,)
    )
    machine.state.apply(LogCommand(at_ms=1, body=body))
    return (
        MemberIdentification(
            known_state=lambda: machine.state, is_master=peers.is_master, now_ms=now_ms
        ),
        peers,
        machine,
    )


def test_a_master_that_joined_while_this_one_was_away_is_heard_once_the_leader_named_it(
    tmp_path: Path,
) -> None:
    """Once it was refused for ever: only it, as the leader, could have named itself as a member."""
    ca = make_ca()
    known, joined, worker = (enrol(ca) for _ in range(3))
    identify, peers, _ = identify_with(tmp_path, known)
    with pytest.raises(ClusterError) as caught:
        identify(Context(joined))  # type: ignore[arg-type]
    assert caught.value.reason is Reason.CALLER_UNKNOWN
    peers.learn([(joined.identity.node_id, ("127.0.0.1:1",))], joined.identity.node_id)
    assert identify(Context(joined)).kind is CallerClass.MASTER  # type: ignore[arg-type]
    with pytest.raises(ClusterError):
        identify(Context(worker))  # type: ignore[arg-type]


def test_a_removed_master_is_refused_whatever_was_heard_of_it(tmp_path: Path) -> None:
    known = enrol(make_ca())
    identify, peers, machine = identify_with(tmp_path, known)
    peers.learn([(known.identity.node_id, ("127.0.0.1:1",))], None)
    machine.state.apply(LogCommand(at_ms=2, body=RemoveNode(node_id=known.identity.node_id)))
    with pytest.raises(ClusterError) as caught:
        identify(Context(known))  # type: ignore[arg-type]
    assert caught.value.reason is Reason.CALLER_UNKNOWN
    assert "join with a new identity" in caught.value.message


def test_a_node_without_a_log_knows_nodes_only_that_the_leader_told_it_of(tmp_path: Path) -> None:
    """With a stolen CA key a certificate can be made, but its owner is not a member."""
    ca = make_ca()
    node, stranger, master = (enrol(ca) for _ in range(3))
    peers, revocations = PeerBook(tmp_path / "masters"), Revocations()
    peers.learn([(master.identity.node_id, ("127.0.0.1:1",))], master.identity.node_id)
    identify = MemberIdentification(
        known_state=lambda: None, is_master=peers.is_master, revocations=revocations, now_ms=now_ms
    )
    for unheard in (node, stranger):
        with pytest.raises(ClusterError) as caught:
            identify(Context(unheard))  # type: ignore[arg-type]
        assert caught.value.reason is Reason.NO_LEADER
    state = identify_with(tmp_path, node)[2].state
    told = RevocationList().of(state, utc_now())
    revocations.take(told)
    assert identify(Context(node)).kind is CallerClass.NODE  # type: ignore[arg-type]
    assert identify(Context(master)).kind is CallerClass.MASTER  # type: ignore[arg-type]
    with pytest.raises(ClusterError) as caught:
        identify(Context(stranger))  # type: ignore[arg-type]
    assert caught.value.reason is Reason.CALLER_UNKNOWN


def test_a_node_that_joins_is_told_of_at_once(tmp_path: Path) -> None:
    ca = make_ca()
    first, second = enrol(ca), enrol(ca)
    state = identify_with(tmp_path, first)[2].state
    told = RevocationList()
    before = told.of(state, utc_now()).version
    state.members.put(
        Principal(
            did=second.identity.did,
            name="w",
            role=Role.WORKER,
            enrolled_at_ms=1,
            liveness_at_ms=1,
        )
    )
    after = told.of(state, utc_now())
    assert after.version != before
    assert second.identity.did in after.node_dids


def test_a_certificate_that_was_revoked_is_refused_with_a_log_and_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = enrol(make_ca())
    identify, peers, machine = identify_with(tmp_path, known)
    peers.learn([(known.identity.node_id, ("127.0.0.1:1",))], known.identity.node_id)
    told = Revocations()
    told.take(RevocationList().of(machine.state, utc_now()))
    unheard = MemberIdentification(
        known_state=lambda: None, is_master=peers.is_master, revocations=told, now_ms=now_ms
    )
    for each in (identify, unheard):
        assert each(Context(known)).kind is CallerClass.MASTER  # type: ignore[arg-type]
    dids: list[object] = []

    def revokes(_self: object, _serial: int, did: object) -> bool:
        dids.append(did)
        return True

    monkeypatch.setattr(type(machine.state.certificates), "is_revoked", revokes)
    monkeypatch.setattr(Revocations, "revokes_certificate", revokes)
    for each in (identify, unheard):
        with pytest.raises(ClusterError) as caught:
            each(Context(known))  # type: ignore[arg-type]
        assert caught.value.reason is Reason.CERTIFICATE_REVOKED
    assert dids == [known.identity.did] * 2


def test_a_client_is_one_also_where_nothing_was_heard(tmp_path: Path) -> None:
    """What it may do is decided by its delegations."""
    client = enrol(make_ca(), is_node=False)
    identify = MemberIdentification(
        known_state=lambda: None, is_master=PeerBook(tmp_path / "masters").is_master, now_ms=now_ms
    )
    assert identify(Context(client)).kind is CallerClass.CLIENT  # type: ignore[arg-type]


def test_who_was_removed_is_told_so_in_a_way_that_its_node_can_tell_apart(tmp_path: Path) -> None:
    known = enrol(make_ca())
    identify, _, machine = identify_with(tmp_path, known)
    machine.state.apply(LogCommand(at_ms=2, body=RemoveNode(node_id=known.identity.node_id)))
    with pytest.raises(ClusterError) as caught:
        identify(Context(known))  # type: ignore[arg-type]
    assert caught.value.metadata.get(REMOVED_KEY) == "true"
    with pytest.raises(ClusterError) as caught:
        identify(Context(enrol(make_ca())))  # type: ignore[arg-type]
    assert REMOVED_KEY not in caught.value.metadata


@pytest.mark.parametrize(
    ("transport", "words"),
    [
        ({"x509_pem_cert": []}, "a certificate of this cluster is needed"),
        ({}, "a certificate of this cluster is needed"),
        ({"ssl_tls_version": [b"TLSv1.2"]}, "only TLSv1.3"),
        ({"ssl_tls_version": []}, "only TLSv1.3"),
    ],
)
def test_nobody_is_known_without_a_certificate_or_by_an_older_tls(
    tmp_path: Path, transport: dict[str, list[bytes]], words: str
) -> None:
    known = enrol(make_ca())
    identify, _, _ = identify_with(tmp_path, known)
    context = Context(known)
    given = {} if transport == {} else context.auth_context() | transport
    context.auth_context = lambda: given  # type: ignore[method-assign]
    with pytest.raises(ClusterError, match=words) as caught:
        identify(context)  # type: ignore[arg-type]
    assert caught.value.reason is Reason.CALLER_UNKNOWN


def test_a_nodes_certificate_makes_no_client_a_node_nor_the_other_way_round(
    tmp_path: Path,
) -> None:
    ca = make_ca()
    node = enrol(ca)
    identify, _, _ = identify_with(tmp_path, node)
    as_client = certified(ca, node.identity, is_node=False)
    with pytest.raises(ClusterError, match="not a member"):
        identify(Context(as_client))  # type: ignore[arg-type]


def test_a_certificate_is_judged_at_each_call_by_the_time_that_is_passed_in(
    tmp_path: Path,
) -> None:
    """The cluster's time, which may not be this machine's."""
    known = enrol(make_ca())
    at_ms = [now_ms()]
    machine = identify_with(tmp_path, known)[2]
    identify = MemberIdentification(
        known_state=lambda: machine.state,
        is_master=lambda _: False,
        now_ms=lambda: at_ms[0],
    )
    assert identify(Context(known)).kind is CallerClass.MASTER  # type: ignore[arg-type]
    for years in (10, -10):
        at_ms[0] = now_ms() + years * 365 * 86_400_000
        with pytest.raises(ClusterError) as caught:
            identify(Context(known))  # type: ignore[arg-type]
        assert caught.value.reason is Reason.CERTIFICATE_INVALID
