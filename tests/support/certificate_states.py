"""Replicated states with certificates."""

from dataclasses import replace
from typing import Any

from ipfs_cluster_node.codec.commands import decode_command, encode_command
from ipfs_cluster_node.core.certificates import Authority, CertificateRecord
from ipfs_cluster_node.core.commands import BootstrapCluster, LogCommand
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.ids import did_from_public_key
from ipfs_cluster_node.core.model import Principal, Role
from ipfs_cluster_node.core.state import ClusterState

CLUSTER = did_from_public_key(bytes(31) + b"\x07")
CLIENT = did_from_public_key(bytes(31) + b"\x08")
OTHER = did_from_public_key(bytes(31) + b"\x09")
DAY_S = 86_400


def principal(**changed: Any) -> Principal:
    made = Principal(
        did=CLIENT, name="c", role=Role.CLIENT, enrolled_at_ms=0, liveness_at_ms=0, grant="operator"
    )
    return replace(made, **changed)


def record(serial: int, *, not_after_s: int = DAY_S, epoch: int = 0) -> CertificateRecord:
    return CertificateRecord(
        serial=serial,
        did=CLIENT,
        spki_hash=serial.to_bytes(32),
        not_after_s=not_after_s,
        issued_at_ms=0,
        epoch=epoch,
    )


def cluster(*records: CertificateRecord) -> ClusterState:
    state = ClusterState()
    body = BootstrapCluster(
        cluster_id="id",
        cluster_name="name",
        cluster_did=CLUSTER,
        principals=(principal(),),
        authority=Authority(version=1, key_id="k", roots=("root",)),
        certificates=records,
    )
    apply(state, body)
    return state


def apply(state: ClusterState, body: Any, *, at_s: int = 0) -> Accepted | Rejected:
    # Through the bytes of the log, as it comes to every replica.
    command = decode_command(encode_command(LogCommand(at_ms=at_s * 1000, body=body)))
    return state.apply(command).outcome
