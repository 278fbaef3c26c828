"""A node as a service: its manager is notified when it listens, and when it stops."""

import signal
import socket
import subprocess
from pathlib import Path

from ipfs_cluster_node.cli.local_cluster import command
from tests.support.environment import environment_with


def test_a_service_manager_hears_when_the_node_listens_and_when_it_stops(tmp_path: Path) -> None:
    home = ("--home", str(tmp_path / "n"))
    environment = environment_with(tmp_path / "profiles.toml")
    binds = ("--bind", "127.0.0.1:0", "--enrolment-bind", "127.0.0.1:0")
    subprocess.run(
        command("init", *home, *binds), env=environment, check=True, timeout=60, capture_output=True
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        node = subprocess.Popen(
            command("serve", *home),
            env={**environment, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert manager.recv(100) == b"READY=1"
            node.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            node.communicate(timeout=30)
            assert node.returncode == 0
        finally:
            node.kill()
            node.communicate()
