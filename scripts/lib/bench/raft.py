"""Durable small writes on 3 masters, beside a 3-node etcd, both over mutual TLS on this machine.

One asyncio process loads both in the same way: raw gRPC calls over as many channels, requests made
beforehand. Ours are `ProposeConfig` of a key, theirs `Put`; both are on the disks of a majority
before they are answered. Runs are interleaved; the figures are medians.
"""

import asyncio
import contextlib
import itertools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc

from ipfs_cluster_node.adapters.keys.certificates import (
    CertificateAuthority,
    make_tls_key,
    utc_now,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.v1 import membership_pb2
from ipfs_cluster_node.v1.membership_pb2_grpc import MembershipServiceStub
from scripts.lib.bench.common import line, note, options

CLIENTS: Final = 256
CHANNELS: Final = 8
ROUNDS: Final = 5
SECONDS: Final = 3.0
SEQUENTIAL: Final = 200
KEYS: Final = 256

Write = Callable[[int], Awaitable[Any]]
"""Writes the value of this number, and returns once it is acknowledged."""


async def rate(write: Write, clients: int, seconds: float) -> float:
    """Acknowledged writes a second of so many closed-loop clients."""
    numbers = itertools.count()
    ends = time.perf_counter() + seconds
    done = 0

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < ends:
            await write(next(numbers))
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.perf_counter() - began)


async def median_ms(write: Write, count: int) -> float:
    """The median milliseconds of one write after the other."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        await write(number)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


@contextlib.asynccontextmanager
async def ours(root: Path) -> AsyncIterator[Write]:
    """Three masters; writes go to the leader."""
    cluster = LocalCluster(root)
    try:
        await cluster.start(masters=3, workers=0)
        async with cluster.client() as client:
            await client.propose_config("request_count_max", "1000000")
            leader = await cluster.leader(client)
        profile = cluster.profile
        tls = ClientTls(
            profile.ca.read_bytes(), profile.certificate.read_bytes(), profile.key.read_bytes()
        )
        channels = [
            open_channel(
                leader.address, tls=tls, node_id=NodeId(leader.node_id), own_connection=True
            )
            for _ in range(CHANNELS)
        ]
        calls = [MembershipServiceStub(channel).ProposeConfig for channel in channels]
        run = itertools.count()

        def write(number: int) -> Awaitable[Any]:
            request = membership_pb2.ProposeConfigRequest(
                request_id=f"r{next(run)}", key=f"user.k{number % KEYS}", value=f"v{number}"
            )
            return calls[number % CHANNELS](request, timeout=30)

        yield write
        for channel in channels:
            await channel.close()
    finally:
        await cluster.stop()


def _field(number: int, value: bytes) -> bytes:
    assert len(value) < 128
    return bytes((number << 3 | 2, len(value))) + value


@contextlib.asynccontextmanager
async def etcd(root: Path) -> AsyncIterator[Write]:
    """Three members of etcd with mutual TLS; writes go to the leader."""
    root.mkdir()
    ca = CertificateAuthority.create("bench", utc_now())
    identity = Identity.create()
    key = make_tls_key(identity)
    certificate = ca.issue(
        key.request_der, identity.did, hosts=["127.0.0.1"], is_node=True, now=utc_now()
    )
    for name, data in (("ca", ca.certificate_pem), ("cert", certificate), ("key", key.key_pem)):
        (root / name).write_bytes(data)
    ports = [(23790 + 10 * n, 23800 + 10 * n + 5) for n in range(3)]
    members = ",".join(f"e{n}=https://127.0.0.1:{peer}" for n, (_, peer) in enumerate(ports))
    processes = [_start_etcd(root, n, ports[n], members) for n in range(3)]
    tls = ClientTls(ca.certificate_pem, certificate, key.key_pem)
    try:
        address = await _etcd_leader(tls, [port for port, _ in ports])
        channels = [open_channel(address, tls=tls, own_connection=True) for _ in range(CHANNELS)]
        calls: list[Any] = [c.unary_unary("/etcdserverpb.KV/Put") for c in channels]

        def write(number: int) -> Awaitable[Any]:
            request = _field(1, b"k%d" % (number % KEYS)) + _field(2, b"v%d" % number)
            answer: Awaitable[Any] = calls[number % CHANNELS](request, timeout=30)
            return answer

        yield write
        for channel in channels:
            await channel.close()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=20)


def _start_etcd(
    root: Path, number: int, ports: tuple[int, int], members: str
) -> subprocess.Popen[bytes]:
    client, peer = (f"https://127.0.0.1:{port}" for port in ports)
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


async def _etcd_leader(tls: ClientTls, ports: list[int]) -> str:
    """The address of the member whose own id is the leader's, by `Maintenance.Status`."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for port in ports:
            channel = open_channel(f"127.0.0.1:{port}", tls=tls)
            try:
                ask: Any = channel.unary_unary("/etcdserverpb.Maintenance/Status")
                answer: bytes = await ask(b"", timeout=2)
            except grpc.aio.AioRpcError:
                continue
            finally:
                await channel.close()
            fields = dict(_fields(answer))
            own = dict(_fields(fields.get(1, b"")))
            if own.get(2) == fields.get(4) and fields.get(4):
                return f"127.0.0.1:{port}"
        await asyncio.sleep(0.3)
    raise TimeoutError("etcd has no leader; look at its log")


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


async def run(given: Any, peer: str) -> None:
    """Measure both, in turns."""
    rounds, seconds = (2, 1.0) if given.quick else (ROUNDS, SECONDS)
    root = Path(tempfile.mkdtemp(prefix="bench-raft-"))
    figures: dict[tuple[str, str], list[float]] = {}
    try:
        async with ours(root / "ours") as our_write, etcd(root / "etcd") as their_write:
            for number in range(rounds):
                note(f"round {number + 1} of {rounds}")
                for name, write in (("ours", our_write), ("theirs", their_write)):
                    unary = await rate(write, CLIENTS, seconds)
                    one = await median_ms(write, SEQUENTIAL // (10 if given.quick else 1))
                    figures.setdefault(("raft-unary", name), []).append(unary)
                    figures.setdefault(("raft-sequential", name), []).append(one)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for bench, unit in (("raft-unary", "writes/s"), ("raft-sequential", "ms")):
        mine = statistics.median(figures[bench, "ours"])
        theirs = statistics.median(figures[bench, "theirs"])
        better = mine / theirs if unit == "writes/s" else theirs / mine
        line(given, bench=bench, peer=peer, ours=mine, theirs=theirs, unit=unit, ratio=better)


def main() -> None:
    if shutil.which("etcd") is None:
        sys.exit("error: etcd is needed; on Debian: apt-get install etcd-server")
    version = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True)
    peer = version.stdout.splitlines()[0].replace("etcd Version: ", "etcd ")
    asyncio.run(run(options(__doc__ or ""), peer))


if __name__ == "__main__":
    main()
