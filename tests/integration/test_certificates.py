"""Certificates of a real cluster: renewed, expired, revoked; and keys that no file holds."""

import asyncio
import json
import secrets
import socket
import ssl
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ipfs_cluster_node.adapters.keys.certificates import (
    TlsKey,
    make_tls_key,
    read_certificate,
    renewal_message,
    validity_of,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.enums import CALLER_CLASS
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.config.credentials import write_credentials
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSection
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, tls_name
from ipfs_cluster_node.node.joining import join_cluster
from ipfs_cluster_node.v1 import certificate_pb2, enrolment_pb2
from ipfs_cluster_node.v1.authorization_pb2 import GetCallerRequest
from ipfs_cluster_node.v1.authorization_pb2_grpc import AuthorizationServiceStub
from ipfs_cluster_node.v1.certificate_pb2_grpc import CertificateServiceStub
from ipfs_cluster_node.v1.enrolment_pb2_grpc import EnrolmentServiceStub
from tests.support.certificates import (
    certificate_ending,
    cluster_keys,
    node_credentials,
    tls_of,
)
from tests.support.http2 import PREFACE, SETTINGS, call, frame
from tests.support.nodes import check_of, until
from tests.support.virtual_time import utc_now

STATUS = "/ipfs_cluster_node.v1.MembershipService/GetClusterStatus"


async def joined_client(client: Client, cluster: LocalCluster, cli: Any, home: Path) -> str:
    """Have a client join; returns its profile's name."""
    token = (await client.create_join_token("client", grant="reader")).token
    name = f"c{secrets.token_hex(3)}"
    done = await asyncio.to_thread(
        cli,
        *("join", token, "--enrolment", f"127.0.0.1:{cluster.enrolment_port}"),
        *("--home", str(home), "--profile-name", name),
    )
    assert done.returncode == 0, done.stderr
    return name


def request_of(key_pem: bytes, certificate_pem: bytes) -> TlsKey:
    """What a thief of a TLS key and its certificate can ask with: it copies the extension."""
    key = serialization.load_pem_private_key(key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    shown = x509.load_pem_x509_certificate(certificate_pem)
    [bound] = [e for e in shown.extensions if e.oid.dotted_string.startswith("1.3.6.1.4.1.53594")]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(bound.value, critical=False)
        .sign(key, hashes.SHA256())
    )
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    request_der = request.public_bytes(serialization.Encoding.DER)
    return TlsKey(key_pem=key_pem, request_der=request_der, spki_der=spki)


@pytest.mark.asyncio
async def test_no_file_of_any_node_holds_the_clusters_keys(cluster: LocalCluster) -> None:
    masters = [node for node in cluster.nodes if node.role == "master"]

    async def sealed_to_all() -> bool:
        for node in masters:
            cluster_keys(node.home)
        return True

    await until(sealed_to_all, seconds=10, what="the keys are sealed to every master that votes")
    keys = cluster_keys(masters[0].home)
    wanted = [
        keys.authority.private_key.private_bytes_raw(),
        keys.cas[0].key_der,
        keys.cas[0].key_der[36:68],  # The private number alone.
        b"ca.key",
    ]
    for path in cluster.root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert path.name not in ("ca.key", "authority.key")
            assert not any(secret in data for secret in wanted), path


@pytest.mark.asyncio
async def test_every_certificate_is_of_a_day_and_in_the_log(
    client: Client, cluster: LocalCluster
) -> None:
    known = {each.serial: each for each in await client.list_certificates()}
    for node in cluster.nodes:
        pem = node_credentials(node).certificate_pem
        began, ends = validity_of(pem)
        assert ends - began == timedelta(hours=24, minutes=5)
        record = known[f"{read_certificate(pem).serial:x}"]
        assert record.name == node.name
        assert not record.revoked
        check = await check_of(cluster, node, "certificate")
        assert check.ok
        assert not check.degraded


@pytest.mark.asyncio
async def test_a_renewed_certificate_has_the_names_of_the_members_entry(
    client: Client, cluster: LocalCluster
) -> None:
    """What the request asks for is not looked at; what it signs must be the caller's."""
    worker, master = cluster.nodes[-1], await cluster.leader(client)
    identity = Identity.load(worker.home.identity)
    shown = node_credentials(worker)
    tls = tls_of(shown)
    channel = open_channel(master.address, tls=tls, node_id=NodeId(master.node_id))

    async def renewed(
        signer: Identity, key: TlsKey, for_pem: bytes = shown.certificate_pem
    ) -> certificate_pb2.RenewCertificateResponse:
        proof = signer.sign(renewal_message(for_pem, key.spki_der))
        return await CertificateServiceStub(channel).RenewCertificate(
            certificate_pb2.RenewCertificateRequest(
                certificate_request=key.request_der, proof=proof
            ),
            timeout=10,
        )

    try:
        answer = await renewed(identity, make_tls_key(identity))
        stranger = Identity.create()
        # Also a key that carries the identity's old signature: the TLS key alone renews nothing.
        own = request_of(shown.key_pem, shown.certificate_pem)
        # Nor is a proof good for another certificate than the one that the connection shows.
        for signer, key, pem in (
            (identity, make_tls_key(stranger), shown.certificate_pem),
            (stranger, make_tls_key(identity), shown.certificate_pem),
            (stranger, own, shown.certificate_pem),
            (identity, make_tls_key(identity), answer.certificate_pem.encode()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await renewed(signer, key, pem)
            assert error_from_rpc(caught.value).reason is Reason.PROOF_INVALID
    finally:
        await channel.close()
    certificate = x509.load_pem_x509_certificate(answer.certificate_pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    # Addresses are a master's alone: with them a worker could pass for its enrolment port.
    assert names.get_values_for_type(x509.IPAddress) == []
    assert names.get_values_for_type(x509.DNSName) == [tls_name(NodeId(worker.node_id))]
    assert len(answer.enrolment_endpoints) == 3
    masters = x509.load_pem_x509_certificate(node_credentials(master).certificate_pem)
    names = masters.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


@pytest.mark.asyncio
async def test_no_worker_gets_the_name_of_a_masters_port(
    client: Client, cluster: LocalCluster, tmp_path: Path
) -> None:
    """It would be taken for the enrolment port there, and given join tokens with their secrets."""
    token = (await client.create_join_token("worker")).token
    home = Home(tmp_path / "w")
    settings = NodeSection(name="w", role="worker", advertise=("master1.example:9096",))
    enrolment = f"127.0.0.1:{cluster.enrolment_port}"
    made = await join_cluster(home, settings, token=token, enrolment=enrolment)
    certificate = x509.load_pem_x509_certificate(home.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [tls_name(made.node_id)]
    await client.remove_node(made.node_id)


@pytest.mark.asyncio
async def test_no_serial_number_goes_round_what_a_did_may_not(
    client: Client, cluster: LocalCluster
) -> None:
    mine = read_certificate(cluster.profile.certificate.read_bytes())
    theirs = read_certificate(node_credentials(cluster.nodes[0]).certificate_pem)
    for peer in (mine, theirs):
        for refused in (
            client.revoke_certificate(serial=f"{peer.serial:x}"),
            client.revoke_certificate(did=peer.did),
        ):
            with pytest.raises(ClusterError) as caught:
                await refused
            assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_join_tokens_are_listed_and_revoked(
    cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    made = cli("token", "create", "--role", "client", "--grant", "reader").stdout.strip()
    _, _, token_id, secret = made.partition("@")[0].split(".")
    listed = cli("token", "list", "--join", "--json")
    [found] = [each for each in json.loads(listed.stdout) if each["token_id"] == token_id]
    assert (found["role"], found["grant"], found["uses_max"]) == ("ROLE_CLIENT", "GRANT_READER", 1)
    assert secret not in listed.stdout
    assert token_id in cli("token", "list", "--join").stdout
    assert cli("token", "revoke", made).returncode == 0
    assert token_id not in cli("token", "list", "--join").stdout
    enrolment = f"127.0.0.1:{cluster.enrolment_port}"
    home = str(tmp_path / "late")
    late = cli("join", made, "--enrolment", enrolment, "--home", home)
    assert late.returncode == 4
    assert "revoked" in late.stderr
    assert cli("token", "revoke", token_id).returncode == 4


@pytest.mark.asyncio
async def test_a_client_renews_and_keeps_its_grant(
    client: Client, cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    name = await joined_client(client, cluster, cli, tmp_path / "c")
    before = read_certificate((tmp_path / "c" / "client.pem").read_bytes())
    done = await asyncio.to_thread(cli, "--profile", name, "cert", "renew")
    assert done.returncode == 0, done.stderr
    after = read_certificate((tmp_path / "c" / "client.pem").read_bytes())
    assert (after.did, after.serial == before.serial) == (before.did, False)
    assert (tmp_path / "c" / "client.pem").stat().st_mode & 0o777 == 0o600
    assert (await asyncio.to_thread(cli, "--profile", name, "node", "list")).returncode == 0
    ends = [d.expires_at_ms for d in await client.list_delegations(audience=before.did)]
    assert max(ends) == 1000 * after.not_after.timestamp()
    # A reader has no say over certificates.
    assert (await asyncio.to_thread(cli, "--profile", name, "cert", "list")).returncode == 4


@pytest.mark.asyncio
async def test_a_revoked_certificate_is_refused_at_every_node_within_seconds(
    client: Client, cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    name = await joined_client(client, cluster, cli, tmp_path / "c")
    tls = ClientTls(
        *((tmp_path / "c" / each).read_bytes() for each in ("ca.pem", "client.pem", "client.key"))
    )
    serial = f"{read_certificate(tls.certificate_pem).serial:x}"
    for node in cluster.nodes:
        assert await caller_at(node, tls) == "client"
    done = await asyncio.to_thread(cli, "cert", "revoke", serial)
    assert done.returncode == 0, done.stderr

    async def refused_everywhere() -> bool:
        said = [await caller_at(node, tls) for node in cluster.nodes]
        return said == ["CERTIFICATE_REVOKED"] * len(said)

    await until(refused_everywhere, seconds=5, what="every node refuses it")
    done = await asyncio.to_thread(cli, "--profile", name, "node", "list")
    assert done.returncode == 4
    assert "is revoked" in done.stderr
    shown = await asyncio.to_thread(cli, "cert", "show", serial)
    assert "revoked: yes" in shown.stdout
    # Not even its identity's signature gets another one.
    assert await renewed_at(cluster, tls, tmp_path / "c") is Reason.CERTIFICATE_REVOKED


@pytest.mark.asyncio
async def test_a_revoked_and_a_removed_member_are_refused_at_workers_too(
    client: Client, cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    worker = cluster.nodes[-1]
    for number, how in enumerate(("revoke", "remove")):
        home = tmp_path / str(number)
        await joined_client(client, cluster, cli, home)
        tls = ClientTls(
            *((home / each).read_bytes() for each in ("ca.pem", "client.pem", "client.key"))
        )
        peer = read_certificate(tls.certificate_pem)
        assert await caller_at(worker, tls) == "client"
        if how == "revoke":
            await client.revoke_certificate(did=peer.did)
        else:
            await client.remove_node(peer.node_id)

        async def refused(tls: ClientTls = tls) -> bool:
            return await caller_at(worker, tls) == "CERTIFICATE_REVOKED"

        await until(refused, seconds=5, what=f"the worker refuses it: {how}")
    with pytest.raises(ClusterError) as caught:
        await client.revoke_certificate(did=(await client.get_caller()).did)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    with pytest.raises(ClusterError) as caught:
        await client.revoke_certificate(serial="abcd")
    assert caught.value.reason is Reason.CERTIFICATE_NOT_FOUND


async def caller_at(node: LocalNode, tls: ClientTls) -> str:
    """Ask one node who calls; returns the class, or the reason of the refusal."""
    channel = open_channel(node.address, tls=tls, node_id=NodeId(node.node_id))
    try:
        answer = await AuthorizationServiceStub(channel).GetCaller(GetCallerRequest(), timeout=5)
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error).reason.value
    finally:
        await channel.close()
    return CALLER_CLASS.words[answer.caller_class]


async def renewed_at(
    cluster: LocalCluster, tls: ClientTls, directory: Path, *, forge: bool = False
) -> Reason | bytes:
    """Renew at the last master's enrolment port; returns the certificate, or why there is none."""
    identity = Identity.load(directory / "identity.key")
    key = make_tls_key(identity)
    signer = Identity.create() if forge else identity
    request = enrolment_pb2.RenewExpiredCertificateRequest(
        certificate_pem=tls.certificate_pem.decode(),
        certificate_request=key.request_der,
        proof=signer.sign(renewal_message(tls.certificate_pem, key.spki_der)),
    )
    master = [node for node in cluster.nodes if node.role == "master"][-1]
    channel = open_channel(f"127.0.0.1:{master.enrolment_port}", tls=None, ca_pem=tls.ca_pem)
    try:
        answer = await EnrolmentServiceStub(channel).RenewExpiredCertificate(request, timeout=10)
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error).reason
    finally:
        await channel.close()
    return answer.certificate_pem.encode()


@pytest.mark.asyncio
async def test_an_expired_certificate_is_renewed_by_its_identity_for_a_month(
    client: Client, cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    name = await joined_client(client, cluster, cli, tmp_path / "c")
    identity = Identity.load(tmp_path / "c" / "identity.key")
    home = cluster.nodes[0].home

    def ended(days: float) -> Any:
        return certificate_ending(home, identity, ends_in=-timedelta(days=days), is_node=False)

    late, old = ended(29.9), ended(30.1)
    assert await renewed_at(cluster, tls_of(old), tmp_path / "c") is Reason.CERTIFICATE_INVALID
    forged = await renewed_at(cluster, tls_of(late), tmp_path / "c", forge=True)
    assert forged is Reason.PROOF_INVALID
    files = [tmp_path / "c" / each for each in ("ca.pem", "client.pem", "client.key")]
    write_credentials(late, *files)
    # The command line does it by itself, and the grant comes back with it.
    done = await asyncio.to_thread(cli, "--profile", name, "node", "list")
    assert done.returncode == 0, done.stderr
    assert validity_of(files[1].read_bytes())[1] > utc_now() + timedelta(hours=23)
    # A stranger's certificate for the same identity does not.
    await client.remove_node(identity.node_id)
    gone = await renewed_at(cluster, tls_of(late), tmp_path / "c")
    assert gone is Reason.CALLER_UNKNOWN


def handshake(
    node: LocalNode, files: tuple[Path, Path, Path], session: ssl.SSLSession | None
) -> tuple[bytes, bool, ssl.SSLSession | None]:
    """One call over a connection of one's own; what came back, if TLS resumed, and a ticket."""
    context = handshake.contexts.setdefault(files, _context(files))  # type: ignore[attr-defined]
    with (
        socket.create_connection(("127.0.0.1", node.port), timeout=5) as raw,
        context.wrap_socket(raw, session=session) as connection,
    ):
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + call(STATUS, 1))
        answer = b""
        with suppress(TimeoutError):
            connection.settimeout(3.0)
            while data := connection.recv(65536):
                answer += data
        return answer, bool(connection.session_reused), connection.session


handshake.contexts = {}  # type: ignore[attr-defined]


def _context(files: tuple[Path, Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files[0])
    context.load_cert_chain(files[1], files[2])
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    return context


def test_a_ticket_of_an_expired_certificate_gets_no_answer(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    """TLS 1.3 allows it to resume for two days: the dates are checked at every call."""
    directory = cluster.profile.certificate.parent
    identity = Identity.load(directory / "identity.key")
    short = certificate_ending(
        cluster.nodes[0].home, identity, ends_in=timedelta(seconds=5), is_node=False
    )
    files = (tmp_path / "ca.pem", tmp_path / "c.pem", tmp_path / "c.key")
    write_credentials(short, *files)
    node = cluster.nodes[0]
    answer, reused, ticket = handshake(node, files, None)
    assert b"local" in answer  # The cluster's name.
    assert not reused
    assert ticket is not None
    wait = validity_of(short.certificate_pem)[1] - utc_now() + timedelta(seconds=1)
    asyncio.run(asyncio.sleep(wait.total_seconds()))
    answer, reused, _ = handshake(node, files, ticket)
    assert reused, "the handshake itself still lets it in: else this tests nothing"
    assert b"local" not in answer
    assert b"the certificate is valid from" in answer


@pytest.mark.asyncio
async def test_a_revocation_ends_tls_sessions_at_the_masters(
    client: Client, cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    profile = cluster.profile
    files = (profile.ca, profile.certificate, profile.key)
    node = cluster.nodes[0]
    _, _, ticket = await asyncio.to_thread(handshake, node, files, None)
    _, reused, _ = await asyncio.to_thread(handshake, node, files, ticket)
    assert reused
    await joined_client(client, cluster, cli, tmp_path / "c")
    other = read_certificate((tmp_path / "c" / "client.pem").read_bytes())
    await client.revoke_certificate(serial=f"{other.serial:x}")
    await asyncio.sleep(1.0)  # Until this node has applied it.
    answer, reused, _ = await asyncio.to_thread(handshake, node, files, ticket)
    assert not reused
    assert b"local" in answer
