"""Any TLS library can use a member's files and a node's address."""

import re
import socket
import ssl
from pathlib import Path
from typing import Final

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster

PEM: Final = re.compile(rb"-----BEGIN [A-Z ]+-----\n")


def stock_context(cluster: LocalCluster) -> ssl.SSLContext:
    """By the standard library alone; it checks the host that is dialled."""
    profile = cluster.profile
    context = ssl.create_default_context(cafile=str(profile.ca))
    context.load_cert_chain(str(profile.certificate))
    context.set_alpn_protocols(["h2"])
    return context


def first_byte(cluster: LocalCluster, host: str, port: int) -> bytes:
    """Of gRPC's settings, which come once the server has taken the client's certificate."""
    with (
        socket.create_connection((host, port), timeout=10) as plain,
        stock_context(cluster).wrap_socket(plain, server_hostname=host) as secured,
    ):
        return secured.recv(1)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_master_is_reached_by_its_address_and_as_localhost(
    cluster: LocalCluster, host: str
) -> None:
    for node in cluster.nodes:
        if node.role == "master":
            assert first_byte(cluster, host, node.port)
            assert first_byte(cluster, host, node.enrolment_port)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_worker_is_not_reached_by_a_name_that_it_chose(cluster: LocalCluster, host: str) -> None:
    worker = next(node for node in cluster.nodes if node.role == "worker")
    with pytest.raises(ssl.SSLCertVerificationError):
        first_byte(cluster, host, worker.port)


def test_every_file_in_pem_begins_with_pem(cluster: LocalCluster) -> None:
    homes = {node.home.path for node in cluster.nodes}
    files = [
        file
        for directory in {*homes, cluster.profile.certificate.parent}
        for file in directory.rglob("*")
        if file.suffix in {".pem", ".key"}
    ]
    names = {file.name for file in files}
    assert {"client.pem", "client.key", "ca.pem", "node.pem", "identity.key"} <= names
    assert [file.name for file in files if not PEM.match(Path(file).read_bytes())] == []
