"""Three members of etcd, of Debian's etcd-server."""

import asyncio
import itertools
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

import grpc

from ipfs_cluster_node.adapters.keys.certificates import (
    CertificateAuthority,
    make_tls_key,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.core.ids import NodeId
from scripts.lib.bench.stores import KEYS, MEMBERS, text_field

PORT_FIRST = 23790
READY_SECONDS_MAX = 30.0


class Etcd:
    """A `Store`."""

    name = "theirs"
    put_method = "/etcdserverpb.KV/Put"
    batch_method = "/etcdserverpb.KV/Txn"

    async def start(self, root: Path) -> None:
        root.mkdir()
        self._root = root
        ca = CertificateAuthority.create("bench", SYSTEM_CLOCK.wall())
        identity = Identity.create()
        key = make_tls_key(identity)
        certificate = ca.issue(
            key.request_der,
            identity.did,
            hosts=["127.0.0.1"],
            is_node=True,
            now=SYSTEM_CLOCK.wall(),
        )
        for name, data in (("ca", ca.certificate_pem), ("cert", certificate), ("key", key.key_pem)):
            (root / name).write_bytes(data)
        self.tls = ClientTls(ca.certificate_pem, certificate, key.key_pem)
        self._ports = [(PORT_FIRST + 10 * n, PORT_FIRST + 10 * n + 1) for n in range(MEMBERS)]
        self.addresses = [f"127.0.0.1:{port}" for port, _ in self._ports]
        self.hosts: list[NodeId | None] = [None] * MEMBERS
        self._processes = [self._start_member(member) for member in range(MEMBERS)]
        await self.leader()

    async def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            await asyncio.to_thread(process.wait, 20)

    async def leader(self) -> int:
        """Whose own id is the leader's, by `Maintenance.Status`."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            for member in range(MEMBERS):
                status = await self._status(member)
                own = dict(_fields(status.get(1, b"")))
                if status.get(4) and own.get(2) == status.get(4):
                    return member
            await asyncio.sleep(0.3)
        raise TimeoutError("etcd has no leader; look at its log")

    async def kill(self, member: int) -> None:
        self._processes[member].kill()
        await asyncio.to_thread(self._processes[member].wait, 20)

    async def restart(self, member: int) -> None:
        self._processes[member] = self._start_member(member)
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not (await self._status(member)).get(4):
            if time.monotonic() > deadline:
                raise TimeoutError("an etcd member does not come back; look at its log")
            await asyncio.sleep(0.1)

    def put(self, number: int) -> bytes:
        return _put(number % KEYS, number)

    def batch(self, number: int, count: int) -> bytes:
        return _batch(number % KEYS, count)

    def check(self, answer: bytes) -> None:
        fields = dict(_fields(answer))
        assert 1 in fields  # A header.
        assert fields.get(2, 1)  # A transaction succeeded.

    async def _status(self, member: int) -> dict[int, Any]:
        channel = open_channel(self.addresses[member], tls=self.tls)
        try:
            ask: Any = channel.unary_unary("/etcdserverpb.Maintenance/Status")
            return dict(_fields(await ask(b"", timeout=2)))
        except grpc.aio.AioRpcError:
            return {}
        finally:
            await channel.close()

    def _start_member(self, number: int) -> subprocess.Popen[bytes]:
        root = self._root
        client, peer = (f"https://127.0.0.1:{port}" for port in self._ports[number])
        members = ",".join(
            f"e{n}=https://127.0.0.1:{port}" for n, (_, port) in enumerate(self._ports)
        )
        tls = ("--cert-file", "--key-file", "--trusted-ca-file")
        files = [str(root / name) for name in ("cert", "key", "ca")]
        command = [
            *("etcd", "--name", f"e{number}", "--data-dir", str(root / f"e{number}")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", members, "--client-cert-auth", "--peer-client-cert-auth"),
            *itertools.chain(*zip(tls, files, strict=True)),
            *itertools.chain(*((f"--peer-{t[2:]}", f) for t, f in zip(tls, files, strict=True))),
            *("--logger", "zap", "--log-outputs", str(root / f"e{number}.log")),
        ]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _put(key: int, value: int) -> bytes:
    return text_field(1, b"k%d" % key) + text_field(2, b"v%d" % value)


@cache
def _batch(first: int, count: int) -> bytes:
    puts = (_put((first + n) % KEYS, first + n) for n in range(count))
    return b"".join(text_field(2, text_field(2, put)) for put in puts)


def _fields(message: bytes) -> list[tuple[int, Any]]:
    """Fields of a protobuf message: numbers as numbers, the rest as bytes."""
    found: list[tuple[int, Any]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            found.append((tag >> 3, varint()))
        else:
            size = varint()
            found.append((tag >> 3, message[at : at + size]))
            at += size
    return found
