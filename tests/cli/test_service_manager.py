"""What systemd is told."""

import socket
from pathlib import Path

import pytest

from ipfs_cluster_node.cli import service_manager


def listener(address: str) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    opened.bind(address.replace("@", "\0", 1))
    opened.settimeout(5)
    return opened


def test_a_manager_hears_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (str(tmp_path / "notify"), f"@test-{tmp_path}"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        with listener(address) as manager:
            service_manager.notify(service_manager.READY)
            assert manager.recv(100) == b"READY=1"


def test_no_manager_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    service_manager.notify(service_manager.READY)
    for address in (str(tmp_path / "missing"), "relative", ""):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        service_manager.notify(service_manager.STOPPING)


def test_a_manager_that_does_not_read_blocks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with listener(str(tmp_path / "notify")):
        for _ in range(1000):
            service_manager.notify(service_manager.READY)
