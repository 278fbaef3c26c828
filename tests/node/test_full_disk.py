"""A full disk loses none of the files beside the log, and ends no node."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cluster.certificates.authority import ClusterAuthority
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.config.credentials import Credentials, read_credentials, write_credentials
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.certificates import Authority
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.node import own_certificate as own_certificate_module
from ipfs_cluster_node.node.own_certificate import OwnCertificate
from tests.support.disks import fill_up, free_bytes, small_disk
from tests.support.tls import Member, enrol, make_ca, own_certificate
from tests.support.virtual_time import loop_clock, utc_now


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "1m") as path:
        yield path


def files_in(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir() if each.name != "filler"}


def test_a_private_file_stays_as_it_was_and_no_other_is_left(disk: Path) -> None:
    write_private(disk / "file", b"old")
    fill_up(disk)
    assert free_bytes(disk) == 0
    with pytest.raises(OSError, match="No space"):
        write_private(disk / "file", b"new" * 10_000)
    assert files_in(disk) == {"file": b"old"}


def test_masters_are_known_at_once_and_written_down_once_there_is_room(disk: Path) -> None:
    one, two = (Identity.create().node_id for _ in range(2))
    path = disk / "masters.json"
    book = PeerBook(path)
    book.learn([(one, ("a:1",))], one)
    filler = fill_up(disk)
    for _ in range(2):
        book.learn([(two, ("b:1" * 2000,))], two)
    assert book.is_master(two)
    assert PeerBook(path).is_master(one)
    filler.unlink()
    book.learn([(two, ("b:1" * 2000,))], two)
    assert PeerBook(path).is_master(two)
    assert list(files_in(disk)) == [path.name]


def renewing(member: Member, home: Path) -> tuple[OwnCertificate, Credentials]:
    tls = member.tls
    kept = Credentials(tls.ca_pem, tls.certificate_pem, tls.key_pem, epoch=3)
    return own_certificate(member, home), kept


@pytest.mark.asyncio
async def test_a_certificate_that_cant_be_written_down_is_had_again_later(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_certificate_module, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(own_certificate_module, "RETRY_SECONDS_MIN", 0.05)
    ca, home = make_ca(), Home(disk)
    own, old = renewing(enrol(ca), disk)
    home.ca.parent.mkdir()
    write_credentials(old, home.ca, home.certificate, home.tls_key)
    new = enrol(ca).tls
    longer = new.ca_pem + b"#" * 8192  # Otherwise it might find room in the page of the old one.

    async def renew() -> None:
        await own.install(Credentials(longer, new.certificate_pem, new.key_pem, 4))

    monkeypatch.setattr(own, "renew", renew)
    own._renew_at = utc_now()
    filler = fill_up(disk)
    running = asyncio.create_task(own.run())
    await asyncio.sleep(0.5)
    assert not running.done()
    assert own.tls.certificate_pem == old.certificate_pem
    assert read_credentials(home.ca, home.certificate, home.tls_key) == old
    filler.unlink()
    async with asyncio.timeout(5):
        while own.tls.certificate_pem != new.certificate_pem:
            await asyncio.sleep(0.01)
    running.cancel()
    assert read_credentials(home.ca, home.certificate, home.tls_key).epoch == 4


def test_sealed_keys_that_cant_be_written_down_are_kept_later(disk: Path) -> None:
    authority = Authority(version=7, key_id="key", ciphertext=b"x" * 8192)
    state = SimpleNamespace(certificates=SimpleNamespace(authority=authority))
    consensus = cast("Consensus", SimpleNamespace(state=lambda: state))
    home = Home(disk)
    home.authority.parent.mkdir(exist_ok=True)
    kept = ClusterAuthority(home, consensus, did=Did("did"), cluster_id="c", clock=loop_clock())
    filler = fill_up(disk)
    kept.keep()
    assert not home.authority.exists()
    filler.unlink()
    kept.keep()
    assert kept.kept() == authority
