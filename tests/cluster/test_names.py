"""The names in a certificate: those of the member's entry, part of which a worker sets itself."""

from cryptography import x509

from ipfs_cluster_node.adapters.keys.certificates import (
    CertificateAuthority,
    make_tls_key,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cluster.certificates.issuing import sign_for
from ipfs_cluster_node.core.commands import LogCommand, RegisterNode
from ipfs_cluster_node.core.ids import tls_name
from ipfs_cluster_node.core.model import Principal, Role
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.state_data import StateData
from tests.support.virtual_time import utc_now

MASTERS_HOST = "master1.example"


def names_of(role: Role) -> tuple[Identity, list[str]]:
    """The names that a member gets which registers a master's addresses as its own."""
    identity = Identity.create()
    joined = Principal(
        did=identity.did,
        name="n",
        role=role,
        endpoints=(f"{MASTERS_HOST}:9095",),
        enrolled_at_ms=1,
        liveness_at_ms=1,
    )
    state = ClusterState(StateData(cluster_id="id", principals=(joined,)))
    register = RegisterNode(
        node_id=identity.node_id,
        endpoints=(f"{MASTERS_HOST}:9096", "192.0.2.1:9096"),
        enrolment_endpoints=(f"{MASTERS_HOST}:9095",),
        task_types=(),
        slot_count=1,
        version="",
    )
    state.apply(LogCommand(at_ms=1, body=register))
    member = state.members.get(identity.did)
    assert member is not None
    ca = CertificateAuthority.create("c", utc_now())
    pem = sign_for(state, ca, member, make_tls_key(identity).request_der, now=utc_now())
    names = (
        x509.load_pem_x509_certificate(pem)
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    hosts: list[str] = names.get_values_for_type(x509.DNSName)
    return identity, [*hosts, *map(str, names.get_values_for_type(x509.IPAddress))]


def test_a_worker_that_registers_a_masters_host_gets_no_such_name_at_its_renewal() -> None:
    """With that name it could pose as the enrolment port there, and receive join tokens."""
    for role in (Role.WORKER, Role.LEECHER):
        identity, names = names_of(role)
        assert names == [tls_name(identity.node_id)]


def test_a_masters_certificate_has_the_addresses_that_it_is_reached_at() -> None:
    identity, names = names_of(Role.MASTER)
    assert names == [tls_name(identity.node_id), MASTERS_HOST, "192.0.2.1"]
