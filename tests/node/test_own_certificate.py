"""When a node renews its certificate, and what its health says of it."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ipfs_cluster_node.access.identify import MemberIdentification
from ipfs_cluster_node.access.revocations import Revocations
from ipfs_cluster_node.adapters.keys.certificates import (
    read_certificate,
    record_of,
    validity_of,
)
from ipfs_cluster_node.cluster.certificates.revocations import RevocationList
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.codec.members import serial_text
from ipfs_cluster_node.config.credentials import Credentials, read_credentials, write_credentials
from ipfs_cluster_node.core.certificates import CertificateRevocation
from ipfs_cluster_node.core.commands import ExpireRecords, RemoveNode, RevokeCertificate
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import node_id_from_did
from ipfs_cluster_node.node.own_certificate import renewal_time
from ipfs_cluster_node.worker.v1 import node_pb2
from tests.support.certificate_states import CLIENT, DAY_S, apply, cluster, record
from tests.support.tls import Context, enrol, make_ca, own_certificate
from tests.support.virtual_time import now_ms, utc_now


def test_it_is_renewed_between_half_and_four_fifths_of_its_life() -> None:
    began, life = utc_now(), timedelta(hours=24)
    assert renewal_time(began, life, 0.0) == began + timedelta(hours=12)
    assert renewal_time(began, life, 1.0) == began + timedelta(hours=19.2)


def test_nodes_draw_when_they_renew_each_for_itself(tmp_path: Path) -> None:
    """Otherwise all nodes of a cluster that started together would call the leader at once."""
    member = enrol(make_ca())
    began, ends = validity_of(member.tls.certificate_pem)
    drawn = [own_certificate(member, tmp_path)._renew_at for _ in range(1000)]
    shares = [(at - began) / (ends - began) for at in drawn]
    assert min(shares) >= 0.5
    assert max(shares) <= 0.8
    assert len(set(shares)) > 990
    # A tenth of the time between has a tenth of them; 5 deviations are 48.
    tenths = Counter(int((share - 0.5) / 0.03) for share in shares)
    assert tenths.keys() == set(range(10))
    assert all(abs(count - 100) < 48 for count in tenths.values()), tenths


def test_health_is_degraded_from_four_fifths_of_its_life_on_and_fails_when_it_ends(
    tmp_path: Path,
) -> None:
    member = enrol(make_ca())
    own = own_certificate(member, tmp_path)
    began, ends = validity_of(member.tls.certificate_pem)
    second = timedelta(seconds=1)
    fresh = own.check(began + 0.8 * (ends - began) - second)
    assert (fresh.name, fresh.ok, fresh.degraded) == ("certificate", True, False)
    late = own.check(began + 0.8 * (ends - began) + second)
    assert (late.ok, late.degraded) == (True, True)
    over = own.check(ends + second)
    assert not over.ok
    assert "ended" in over.detail


def test_what_is_written_down_reads_back_whole_and_fits(tmp_path: Path) -> None:
    first, second = enrol(make_ca()).tls, enrol(make_ca()).tls
    files = (tmp_path / "ca.pem", tmp_path / "node.pem", tmp_path / "node.key")
    for number, tls in enumerate((first, second)):
        credentials = Credentials(tls.ca_pem, tls.certificate_pem, tls.key_pem, epoch=number)
        write_credentials(credentials, *files)
        assert read_credentials(*files) == credentials
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    # A crash before the key's own file was written: the certificate's has the one that fits.
    files[2].write_bytes(first.key_pem)
    assert read_credentials(*files).key_pem == second.key_pem
    # As it was written by `init` of an older release: the key in a file of its own.
    files[1].write_bytes(first.certificate_pem)
    assert read_credentials(*files) == Credentials(
        second.ca_pem, first.certificate_pem, first.key_pem, 0
    )


@pytest.mark.parametrize("by", ["serial", "did"])
def test_a_node_without_a_log_refuses_what_the_leader_told_it(tmp_path: Path, by: str) -> None:
    ca = make_ca()
    revoked, other = enrol(ca), enrol(ca)
    revocations = Revocations()
    identify = MemberIdentification(
        known_state=lambda: None,
        is_master=PeerBook(tmp_path / "masters").is_master,
        revocations=revocations,
        now_ms=now_ms,
    )
    nodes = [revoked.identity.did, other.identity.did]
    told = node_pb2.Revocations(version=4, node_dids=nodes)
    revocations.take(told)
    identify(Context(revoked))  # type: ignore[arg-type]
    peer = read_certificate(revoked.tls.certificate_pem)
    told.version = 5
    if by == "serial":
        told.serials.append(serial_text(peer.serial))
    else:
        told.dids.append(peer.did)
    revocations.take(told)
    with pytest.raises(ClusterError) as caught:
        identify(Context(revoked))  # type: ignore[arg-type]
    assert caught.value.reason is Reason.CERTIFICATE_REVOKED
    identify(Context(other))  # type: ignore[arg-type]
    assert revocations.version == 5


def test_a_record_says_what_the_certificate_says() -> None:
    member = enrol(make_ca())
    record = record_of(member.tls.certificate_pem, issued_at_ms=7, epoch=2)
    peer = read_certificate(member.tls.certificate_pem)
    assert (record.serial, record.did) == (peer.serial, member.identity.did)
    assert record.not_after_s == int(peer.not_after.timestamp())
    assert (record.issued_at_ms, record.epoch, len(record.spki_hash)) == (7, 2, 32)


def test_the_leader_tells_what_tls_would_still_let_in_and_nothing_older() -> None:
    state = cluster(record(1, not_after_s=DAY_S), record(2, not_after_s=2 * DAY_S))
    for serial, end_s in ((1, DAY_S), (2, 2 * DAY_S)):
        revocation = CertificateRevocation(serial=serial, until_s=end_s)
        apply(state, RevokeCertificate(revocation=revocation))
    told, start = RevocationList(), datetime.fromtimestamp(0, UTC)
    first = told.of(state, start)
    assert list(first.serials) == ["1", "2"]
    assert told.of(state, start) is first
    later = told.of(state, start + timedelta(days=1.5))
    assert list(later.serials) == ["2"]
    assert later.version != first.version
    apply(state, RemoveNode(node_id=node_id_from_did(CLIENT)))
    removed = told.of(state, start + timedelta(days=1.5))
    assert list(removed.dids) == [CLIENT]
    assert removed.version not in (first.version, later.version)
    apply(state, ExpireRecords(), at_s=40 * DAY_S)
    end = told.of(state, start + timedelta(days=40))
    assert (list(end.dids), list(end.serials)) == ([], [])
