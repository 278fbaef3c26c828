"""Who a caller is, by the log and by what the uplink heard."""

from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.core.commands import BootstrapCluster, Command, RemoveNode
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import Principal, Role
from ipfs_cluster_node.node.identify import TLS_VERSION, MemberIdentification
from ipfs_cluster_node.node.machine import ClusterMachine
from ipfs_cluster_node.node.peers import PeerBook
from ipfs_cluster_node.services.context import CallerClass
from tests.support.tls import Member, enrol, make_ca


class Context:
    def __init__(self, member: Member) -> None:
        self.certificate = member.tls.certificate_pem

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self.certificate], "ssl_tls_version": [TLS_VERSION.encode()]}


def identify_with(path: Path, known: Member) -> tuple[MemberIdentification, PeerBook, Any]:
    machine, peers = ClusterMachine(), PeerBook(path / "masters")
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
    machine.state.apply(Command(at_ms=1, body=body))
    return MemberIdentification(machine=machine, peers=peers), peers, machine


def test_a_master_that_joined_while_this_one_was_away_is_heard_once_the_leader_named_it(
    tmp_path: Path,
) -> None:
    """Once it was refused for good: as the leader only it could have told that it is a member."""
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
    machine.state.apply(Command(at_ms=2, body=RemoveNode(node_id=known.identity.node_id)))
    with pytest.raises(ClusterError) as caught:
        identify(Context(known))  # type: ignore[arg-type]
    assert caught.value.reason is Reason.CALLER_UNKNOWN
