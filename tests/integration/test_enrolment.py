"""Admission: join tokens, the man in the middle, TLS and the contents of certificates."""

import asyncio
import json
import secrets
import shlex
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from ipfs_cluster_node.adapters.keys.certificates import TlsKey, enrolment_message, make_tls_key
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.tokens import parse_token
from ipfs_cluster_node.adapters.net.channels import Target
from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId, tls_name
from ipfs_cluster_node.v1 import enrolment_pb2, membership_pb2
from ipfs_cluster_node.v1.enrolment_pb2_grpc import EnrolmentServiceStub
from ipfs_cluster_node.v1.membership_pb2_grpc import MembershipServiceStub
from tests.support.certificates import asking_for_more, check_names
from tests.support.http2 import PREFACE, SETTINGS, call, frame
from tests.support.nodes import refusal
from tests.support.people import join
from tests.support.tls import enrol, make_ca

STATUS = "/ipfs_cluster_node.v1.MembershipService/GetClusterStatus"


def enrolment_of(cluster: LocalCluster) -> str:
    return f"127.0.0.1:{cluster.enrolment_port}"


@pytest.mark.asyncio
async def test_a_join_token_is_good_for_one_use(
    client: Client, cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    token = (await client.create_join_token("client")).token
    enrolment = ("--enrolment", enrolment_of(cluster))
    first = cli("join", token, *enrolment, "--home", str(tmp_path / "a"), "--profile-name", "a")
    assert first.returncode == 0, first.stderr
    second = cli("join", token, *enrolment, "--home", str(tmp_path / "b"), "--profile-name", "b")
    assert second.returncode == 4
    assert "used already" in second.stderr
    wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
    third = cli("join", wrong, *enrolment, "--home", str(tmp_path / "c"))
    assert third.returncode == 4
    assert cli("--profile", "a", "status").returncode == 0


def test_what_token_create_prints_joins(cluster: LocalCluster, cli: Any, tmp_path: Path) -> None:
    made = cli("token", "create", "--role", "client")
    token = made.stdout.strip()
    assert f"join {token}" in made.stderr
    bare, _, addresses = token.partition("@")
    assert enrolment_of(cluster) in addresses.split(",")
    where = ("--home", str(tmp_path / "j"), "--profile-name", "line")
    lost = cli("join", bare, *where)
    assert lost.returncode == 2
    assert "names no master" in lost.stderr
    nobody = cli("join", f"{bare}@127.0.0.1:1,127.0.0.1:2", *where)
    assert nobody.returncode == 3
    assert "127.0.0.1:1" in nobody.stderr
    assert "127.0.0.1:2" in nobody.stderr
    done = cli("join", f"{bare}@127.0.0.1:1,{addresses}", *where)
    assert done.returncode == 0, done.stderr
    assert cli("--profile", "line", "status").returncode == 0
    assert cli("token", "revoke", token).returncode in (0, 5)  # Named by the whole of it.
    inspected = json.loads(cli("token", "inspect", token, "--json").stdout)
    assert inspected["enrolment_endpoints"] == addresses.split(",")


def test_the_command_that_is_printed_makes_a_node_of_its_role(
    cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    made = json.loads(cli("token", "create", "--role", "worker", "--json").stdout)
    assert set(made) == {"token", "command", "enrolment_endpoints", "expire_time"}
    program, *words = shlex.split(made["command"])
    assert (program, words[:2]) == ("ipfs-cluster-node", ["join", made["token"]])
    assert made["enrolment_endpoints"] == made["token"].partition("@")[2].split(",")
    home = str(tmp_path / "a worker")
    done = cli(*words, "--home", home)  # Its default is a directory of whoever runs the tests.
    assert done.returncode == 0, done.stderr
    assert f"start it with: ipfs-cluster-node serve --home '{home}'" in done.stdout
    again = cli(*words, "--home", home)
    assert again.returncode == 1
    assert "--home" in again.stderr


@pytest.mark.asyncio
async def test_a_client_that_joins_takes_no_other_profiles_place(
    client: Client, cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    token = (await client.create_join_token("client")).token
    done = cli("join", token, "--enrolment", enrolment_of(cluster), "--home", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    assert "ipfs-cluster-node --profile local status" in done.stdout
    assert cli("--profile", "local", "status").returncode == 0
    assert cli("status").returncode == 0


@pytest.mark.asyncio
async def test_a_client_without_rights_learns_every_master(
    client: Client, cluster: LocalCluster, tmp_path: Path
) -> None:
    person = await join(cluster, tmp_path, "none")
    profile = replace(person.profile, endpoints=person.profile.endpoints[:1])
    masters = {node.node_id: node for node in await client.list_nodes() if node.voter}
    learned: asyncio.Queue[Sequence[Target]] = asyncio.Queue()
    async with Client.from_settings(profile, learned.put_nowait) as nobody:
        status = await nobody.get_cluster_status()
        assert {master.node_id for master in status.masters} == set(masters)
        assert status.masters[0].node_id == status.leader_node_id
        for master in status.masters:
            assert master.endpoints == masters[master.node_id].endpoints
            assert master.tls_name == tls_name(NodeId(master.node_id))
        targets = await asyncio.wait_for(learned.get(), 10)
    assert set(targets) == {(a, node.node_id) for node in masters.values() for a in node.endpoints}


@pytest.mark.asyncio
async def test_an_expired_token_is_refused(
    client: Client, cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    token = (await client.create_join_token("worker", ttl=timedelta(seconds=1))).token
    await asyncio.sleep(1.1)
    home = tmp_path / "late"
    done = cli("join", token, "--enrolment", enrolment_of(cluster), "--home", str(home))
    assert done.returncode == 4
    assert "expired" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (home / "config.toml").exists()


@pytest.mark.asyncio
async def test_a_removed_node_is_told_to_join_as_a_new_one_not_to_start(
    client: Client, cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    home = ("--home", str(tmp_path / "node"))
    enrolment = ("--enrolment", enrolment_of(cluster))
    token = (await client.create_join_token("worker", uses_max=2)).token
    done = cli("join", token, *enrolment, *home, "--json")
    assert done.returncode == 0, done.stderr
    for arguments in (("join", token, *enrolment, *home), ("init", *home)):
        said = cli(*arguments).stderr
        assert "start it with `serve`" in said
        assert "unless it was removed" in said
    await client.remove_node(json.loads(done.stdout)["node_id"])
    for arguments in (("join", token, *enrolment, *home), ("init", *home)):
        again = cli(*arguments)
        assert again.returncode == 1
        assert "HOME_EXISTS" in again.stderr
        assert "was removed from its cluster for good" in again.stderr
        assert "another --home" in again.stderr
        assert "serve" not in again.stderr
    # The token is as it was.
    done = cli("join", token, *enrolment, "--home", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr


@contextmanager
def impostor(tls: ClientTls, directory: Path, received: list[bytes]) -> Iterator[int]:
    """A TLS server that shows somebody's certificate and keeps what it is sent."""
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(tls.certificate_pem + tls.ca_pem)
    key.write_bytes(tls.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    raw, _ = server.accept()
                except TimeoutError:
                    continue
                raw.settimeout(2)
                try:
                    with context.wrap_socket(raw, server_side=True) as connection:
                        received.append(connection.recv(65536))
                except OSError:
                    raw.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            thread.join()


@pytest.mark.asyncio
async def test_a_man_in_the_middle_never_sees_the_tokens_secret(
    client: Client, cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    token = (await client.create_join_token("worker")).token
    secret = token.rpartition(".")[2].encode()
    received: list[bytes] = []
    other = enrol(make_ca()).tls
    # With a cluster of his own; and with the real CA's certificate shown beside it.
    real_ca = cluster.profile.ca.read_bytes()
    shown = [
        other,
        ClientTls(other.ca_pem + real_ca, other.certificate_pem, other.key_pem),
    ]
    for number, tls in enumerate(shown):
        directory = tmp_path / str(number)
        directory.mkdir()
        with impostor(tls, directory, received) as port:
            done = await asyncio.to_thread(
                cli,
                *("join", token, "--enrolment", f"127.0.0.1:{port}"),
                *("--home", str(directory / "home")),
            )
        assert done.returncode in (3, 4), done
        assert "Traceback" not in done.stderr
        assert not (directory / "home").exists()
    assert received
    assert all(secret not in data for data in received)
    # It was not used up: at the real port it is good.
    home = str(tmp_path / "home")
    done = cli("join", token, "--enrolment", enrolment_of(cluster), "--home", home)
    assert done.returncode == 0, done.stderr


def operator_tls(cluster: LocalCluster) -> ClientTls:
    profile = cluster.profile
    return ClientTls(
        profile.ca.read_bytes(), profile.certificate.read_bytes(), profile.key.read_bytes()
    )


@pytest.mark.asyncio
async def test_the_handshake_fails_for_every_wrong_certificate(cluster: LocalCluster) -> None:
    node, other = cluster.nodes[0], cluster.nodes[1]
    operator = operator_tls(cluster)
    assert await refusal(node, operator) == "OK"
    # Another node answers than the one that was meant.
    said = await refusal(node, operator, node_id=other.node_id)
    assert said.startswith("UNAVAILABLE"), said
    # A stranger's certificate, and a stranger's with this cluster's CA trusted.
    stranger = enrol(make_ca(), is_node=False).tls
    mixed = ClientTls(operator.ca_pem, stranger.certificate_pem, stranger.key_pem)
    for tls in (stranger, mixed):
        said = await refusal(node, tls)
        assert said.startswith("UNAVAILABLE"), said
    # A client's certificate does not serve: who is dialled must be a node.
    directory = cluster.root / "client-as-server"
    directory.mkdir(mode=0o700)
    received: list[bytes] = []
    with impostor(operator, directory, received) as port:
        channel = open_channel(f"127.0.0.1:{port}", tls=operator, node_id=NodeId(node.node_id))
        with pytest.raises(grpc.aio.AioRpcError):
            await MembershipServiceStub(channel).GetClusterStatus(
                membership_pb2.GetClusterStatusRequest(), timeout=3
            )
        await channel.close()
    assert received == []


def test_nothing_older_than_tls_1_3_gets_an_answer(cluster: LocalCluster) -> None:
    """The handshake itself can't be narrowed in Python's gRPC; the first call is refused."""
    profile, node = cluster.profile, cluster.nodes[0]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(profile.ca)
    context.load_cert_chain(profile.certificate, profile.key)
    context.check_hostname = False
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", node.port), timeout=5) as raw,
        context.wrap_socket(raw) as connection,
    ):
        assert connection.version() == "TLSv1.2"
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + call(STATUS, 1))
        answer = b""
        while b"TLSv1.3" not in answer:
            data = connection.recv(65536)
            assert data, answer
            answer += data
        assert b"cluster_name" not in answer


async def enrol_raw(
    cluster: LocalCluster,
    token: str,
    *,
    did: str | None = None,
    key: TlsKey | None = None,
    identity: Identity | None = None,
    channel: grpc.aio.Channel | None = None,
) -> Reason | enrolment_pb2.EnrolResponse:
    """Enrol as `join` does, with what an attacker would change."""
    identity = identity or Identity.create()
    key = key or make_tls_key(identity)
    secret = parse_token(token)
    ca_pem = cluster.profile.ca.read_bytes()
    opened = channel or open_channel(enrolment_of(cluster), tls=None, ca_pem=ca_pem)
    try:
        return await EnrolmentServiceStub(opened).Enrol(
            enrolment_pb2.EnrolRequest(
                request_id=secrets.token_hex(8),
                token_id=secret.token_id,
                token_secret=secret.secret,
                did=did or identity.did,
                certificate_request=key.request_der,
                proof=identity.sign(enrolment_message(secret.token_id, key.spki_der)),
                name="raw",
                endpoints=["127.0.0.1:1"],
            ),
            timeout=10,
        )
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error).reason
    finally:
        if channel is None:
            await opened.close()


@pytest.mark.asyncio
async def test_a_joiner_gets_a_certificate_for_its_own_identity_and_names_only(
    client: Client, cluster: LocalCluster
) -> None:
    token = (await client.create_join_token("worker")).token
    victim, joiner = Identity.load(cluster.nodes[0].home.identity), Identity.create()
    # Another's DID; and another's DID signed for by the joiner's own key.
    assert await enrol_raw(cluster, token, did=victim.did) is Reason.PROOF_INVALID
    forged = asking_for_more(make_tls_key(joiner), victim.did)
    answer = await enrol_raw(cluster, token, key=forged, identity=joiner)
    assert isinstance(answer, enrolment_pb2.EnrolResponse)
    check_names(answer.certificate_pem, joiner.did)
    await client.remove_node(joiner.node_id)


@pytest.mark.asyncio
async def test_ten_wrong_secrets_lock_a_token_and_an_address_is_slowed_down(
    client: Client, cluster: LocalCluster
) -> None:
    token = (await client.create_join_token("worker", uses_max=50)).token
    wrong = token[:-4] + ("0000" if token[-4:] != "0000" else "1111")
    ca_pem = cluster.profile.ca.read_bytes()
    # The last master's port: the limit is counted where one knocks, and others of this module do.
    port = [node for node in cluster.nodes if node.role == "master"][-1].enrolment_port
    channel = open_channel(f"127.0.0.1:{port}", tls=None, ca_pem=ca_pem)
    try:
        said = [await enrol_raw(cluster, wrong, channel=channel) for _ in range(11)]
        assert said == [Reason.TOKEN_INVALID] * 10 + [Reason.TOKEN_USED]
        # With the right secret as well.
        assert await enrol_raw(cluster, token, channel=channel) is Reason.TOKEN_USED
        many = [await enrol_raw(cluster, wrong, channel=channel) for _ in range(150)]
    finally:
        await channel.close()
    assert Reason.OVERLOADED in many
    assert many.count(Reason.TOKEN_USED) < 100
