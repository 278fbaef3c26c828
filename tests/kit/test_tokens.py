"""Tokens of kits: one is verified only if the cluster accepts each delegation in it."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from time import time

import pytest

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_container import read_container, write_container
from ipfs_cluster_node.codec.ucan_mint import sign_delegation
from ipfs_cluster_node.config.credentials import IDENTITY_NAME
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.profiles import PRODUCT
from ipfs_cluster_node.kit import ipfs_kit
from ipfs_cluster_node.kit.tokens import did_of_peer
from tests.support.kits import kit_environment

pytestmark = pytest.mark.usefixtures("one_at_a_time")

LIFETIME = timedelta(hours=1)


@pytest.fixture
def master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ipfs_kit]:
    for name, value in kit_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    metadata = {"role": "master", "cluster_name": "c", "enable_cluster_management": True}
    with ipfs_kit(metadata=metadata) as kit:
        yield kit


def forged(kit: ipfs_kit, audience: Did, command: str) -> bytes:
    """A delegation whose issuer has no rights in the cluster."""
    return sign_delegation(
        Identity.create().private_key,
        audience=audience,
        subject=Did(kit.client.get_caller().cluster_did),
        command=Command(command),
        policy=[],
        expires_s=int(time() + LIFETIME.total_seconds()),
    )


def tokens_of(container: str) -> list[bytes]:
    return read_container(container, profile=PRODUCT)


def verified(kit: ipfs_kit, peer_id: str, token: str) -> bool:
    answer = kit.verify_peer_identity(peer_id, token)
    assert answer["success"] is True, answer
    assert answer["verified"] or answer["why"]
    return bool(answer["verified"])


def test_a_forged_token_is_not_verified_for_what_its_peer_may_do_anyway(master: ipfs_kit) -> None:
    assert master._profile is not None
    operator = Identity.load(master._profile.certificate.parent / IDENTITY_NAME)
    token = write_container([forged(master, operator.did, "/task/read")])
    assert not verified(master, operator.node_id, token)


def test_each_delegation_of_a_token_is_verified(master: ipfs_kit) -> None:
    peer = master.node_id
    made = str(master.generate_auth_token(peer, ["read"])["token"])
    assert verified(master, peer, made)
    bad = forged(master, did_of_peer(peer), "/content/add")
    assert not verified(master, peer, write_container([*tokens_of(made), bad]))
    unknown = forged(master, did_of_peer(peer), "/cluster/member/remove")
    assert not verified(master, peer, write_container([*tokens_of(made), unknown]))


def test_a_revoked_token_is_not_verified_for_another_that_its_peer_has(master: ipfs_kit) -> None:
    peer = master.node_id
    stored, made = (
        str(master.generate_auth_token(peer, [command])["token"])
        for command in ("/task/read", "/task/read")
    )
    master.client.put_delegation(tokens_of(stored))
    assert verified(master, peer, made)
    for token in tokens_of(made):
        if token not in tokens_of(stored):
            master.client.revoke_delegation(str(cid_of_token(token)), path=tokens_of(made))
    assert not verified(master, peer, made)
    assert verified(master, peer, stored)
