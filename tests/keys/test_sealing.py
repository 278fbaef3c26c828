"""Only a master's own key or the passphrase opens the cluster's keys."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.sealing import (
    ClusterKeys,
    SealKey,
    make_passphrase,
    open_keys,
    recovery_key,
    resealed,
    wrap,
)
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.core.certificates import Authority
from ipfs_cluster_node.core.errors import ClusterError, Reason
from tests.support.tls import make_ca

PASSPHRASE = "correct-horse-battery"
MASTER, OTHER = Identity.create().did, Identity.create().did
SEAL_KEY, OTHER_SEAL_KEY = SealKey.create(), SealKey.create()
KEYS = ClusterKeys((make_ca(), make_ca()), Identity.create())


def sealed(cluster_id: str = "c1") -> Authority:
    new = Authority(
        recovery_key=recovery_key(PASSPHRASE, cluster_id).public_key,
        roots=tuple(ca.certificate_pem.decode() for ca in KEYS.cas),
    )
    seal_keys = {MASTER: SEAL_KEY.public_key}
    return resealed(new, KEYS, cluster_id=cluster_id, seal_keys=seal_keys)


def opened(authority: Authority, key: SealKey, wrapped: bytes | None, cluster_id: str) -> bytes:
    assert wrapped is not None
    data_key = key.open(wrapped, cluster_id=cluster_id, key_id=authority.key_id)
    keys = open_keys(authority, data_key, cluster_id=cluster_id)
    assert keys.authority.did == KEYS.authority.did
    assert [ca.key_der for ca in keys.cas] == [ca.key_der for ca in KEYS.cas]
    return data_key


def refused(attempt: Callable[[], object]) -> None:
    with pytest.raises(ClusterError) as caught:
        attempt()
    assert caught.value.reason is Reason.AUTHORITY_SEALED


def test_a_master_and_the_passphrase_open_the_keys() -> None:
    authority = sealed()
    data_key = opened(authority, SEAL_KEY, authority.wrap_of(MASTER), "c1")
    recovery = recovery_key(PASSPHRASE, "c1")
    assert opened(authority, recovery, authority.recovery_wrap, "c1") == data_key
    for ca in KEYS.cas:
        assert ca.key_der not in authority.ciphertext
    assert KEYS.authority.private_key.private_bytes_raw() not in authority.ciphertext
    assert data_key not in b"".join((authority.ciphertext, *(w for _, w in authority.wraps)))


def test_nobody_else_opens_them() -> None:
    authority = sealed()
    refused(lambda: opened(authority, OTHER_SEAL_KEY, authority.wrap_of(MASTER), "c1"))
    wrong = recovery_key(PASSPHRASE + "x", "c1")
    refused(lambda: opened(authority, wrong, authority.recovery_wrap, "c1"))
    # The same passphrase at another cluster is another key.
    other_cluster = recovery_key(PASSPHRASE, "c2")
    assert other_cluster.public_key != recovery_key(PASSPHRASE, "c1").public_key
    assert authority.wrap_of(OTHER) is None


def test_what_was_sealed_for_one_cluster_and_data_key_is_of_no_use_for_another() -> None:
    authority = sealed()
    refused(lambda: opened(authority, SEAL_KEY, authority.wrap_of(MASTER), "c2"))
    renamed = replace(authority, key_id="0" * 16)
    refused(lambda: opened(renamed, SEAL_KEY, authority.wrap_of(MASTER), "c1"))
    # A data key of another seal, though it opens, does not open these keys.
    data_key = bytes(32)
    again = wrap(data_key, SEAL_KEY.public_key, cluster_id="c1", key_id=authority.key_id)
    refused(lambda: opened(authority, SEAL_KEY, again, "c1"))


def test_every_bit_of_what_is_sealed_counts() -> None:
    authority = sealed()
    wrapped = authority.wrap_of(MASTER)
    assert wrapped is not None
    data_key = SEAL_KEY.open(wrapped, cluster_id="c1", key_id=authority.key_id)
    for at in (0, 13, len(authority.ciphertext) - 1):
        broken = bytearray(authority.ciphertext)
        broken[at] ^= 1
        damaged = replace(authority, ciphertext=bytes(broken))
        refused(lambda damaged=damaged: open_keys(damaged, data_key, cluster_id="c1"))  # type: ignore[misc]
    for at in (0, 40, len(wrapped) - 1):
        broken = bytearray(wrapped)
        broken[at] ^= 1
        refused(lambda broken=broken: opened(authority, SEAL_KEY, bytes(broken), "c1"))  # type: ignore[misc]
    refused(lambda: open_keys(replace(authority, roots=()), data_key, cluster_id="c1"))


def test_resealed_keys_are_opened_by_whom_they_are_for_and_by_the_same_passphrase() -> None:
    passphrase = recovery_key(PASSPHRASE, "c1")
    before = replace(sealed(), recovery_key=passphrase.public_key, epoch=7)
    after = resealed(before, KEYS, cluster_id="c1", seal_keys={OTHER: OTHER_SEAL_KEY.public_key})
    assert (after.version, after.epoch, after.roots) == (2, 7, before.roots)
    assert after.wrap_of(MASTER) is None
    data_key = opened(after, OTHER_SEAL_KEY, after.wrap_of(OTHER), "c1")
    assert opened(after, passphrase, after.recovery_wrap, "c1") == data_key
    assert data_key != opened(before, SEAL_KEY, before.wrap_of(MASTER), "c1")


def test_a_seal_key_is_private_and_a_passphrase_is_long(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    write_private(path, SEAL_KEY.pem())
    assert SealKey.load(path).public_key == SEAL_KEY.public_key
    path.chmod(0o640)
    with pytest.raises(ClusterError) as caught:
        SealKey.load(path)
    assert "chmod 600" in caught.value.message
    with pytest.raises(ClusterError) as caught:
        recovery_key("short", "c1")
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert "short" not in caught.value.message.replace("too short", "")
    assert len({make_passphrase() for _ in range(50)}) == 50
