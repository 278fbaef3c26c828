"""A switch between network namespaces that cuts, loses, delays, doubles and slows what passes.

Run as a process of its own: `python -m scripts.lib.fault.switch NAMESPACE...`. Each namespace, and
first its own, gets a TUN device `eth0` with the address 10.77.0.1, 10.77.0.2 and so on. Rules come
as lines of JSON on standard input; a rule holds for one direction between two ports. What is
delayed by a random time arrives in another order.
"""

import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

NETWORK: Final = "10.77.0"
MTU: Final = 1500
WAITING_MAX: Final = 20_000
"""Packets on their way; beyond it they are dropped, as by a full queue."""
QUEUE_SECONDS_MAX: Final = 0.5
"""Of a slow link: what would wait longer is dropped."""
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_CLONE_NEWNET: Final = 0x40000000


@dataclass
class Rule:
    """What one direction does to a packet."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    """Seconds."""
    jitter: float = 0.0
    """Up to so many seconds more."""
    bytes_per_second: float = 0.0
    """0 is no limit."""
    free_at: float = 0.0


def open_port(namespace: str | None, number: int) -> int:
    """Make the device of a port in its namespace; returns what reads and writes its packets."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    if namespace is not None:
        there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    port = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(port, _TUNSETIFF, struct.pack("16sH", b"eth0", _IFF_TUN | _IFF_NO_PI))
    for command in (
        f"ip addr add {NETWORK}.{number}/24 dev eth0",
        f"ip link set eth0 mtu {MTU} up",
        "ip link set lo up",
    ):
        subprocess.run(command.split(), check=True)
    libc.setns(home, _CLONE_NEWNET)
    return port


class Switch:
    """Moves packets."""

    def __init__(self, ports: list[int], rng: random.Random) -> None:
        """Connect `ports`: the first has the address 1."""
        self._ports = ports
        self._rng = rng
        self._rules: dict[tuple[int, int], Rule] = {}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()
        self._touched = 0

    def command(self, line: bytes) -> None:
        """Take `{"from": 2, "to": 3, "loss": 0.1}`, or `{}` to forget all rules.

        `{"count": true}` is answered with how many packets a rule has changed since the last one.
        """
        given = json.loads(line)
        if "count" in given:
            print(self._touched, flush=True)
            self._touched = 0
            return
        if not given:
            self._rules.clear()
            return
        ends = given.pop("from"), given.pop("to")
        self._rules[ends] = Rule(**given)

    def run(self) -> None:
        """Move packets until standard input ends."""
        numbers = {port: number for number, port in enumerate(self._ports, start=1)}
        control = sys.stdin.fileno()
        poller = select.epoll()
        for each in (*self._ports, control):
            poller.register(each, select.EPOLLIN)
        while True:
            due = self._waiting[0][0] - time.monotonic() if self._waiting else None
            for ready, _ in poller.poll(None if due is None else max(0.0, due)):
                if ready == control:
                    said = os.read(control, 65536)  # Whole lines: a pipe takes them at once.
                    if not said:
                        return
                    for line in said.splitlines():
                        self.command(line)
                else:
                    self._receive(ready, numbers[ready])
            moment = time.monotonic()
            while self._waiting and self._waiting[0][0] <= moment:
                _, _, receiver, packet = heapq.heappop(self._waiting)
                self._send(receiver, packet)

    def _receive(self, port: int, sender: int) -> None:
        try:
            packet = os.read(port, MTU + 100)
        except BlockingIOError:
            return
        if packet[0] >> 4 != 4:
            return
        receiver = packet[19]
        rule = self._rules.get((sender, receiver))
        if rule is None:
            self._send(receiver, packet)
            return
        self.pass_on(rule, receiver, packet)

    def pass_on(self, rule: Rule, receiver: int, packet: bytes) -> None:
        """Send a packet as a rule has it."""
        copies = 2 if self._rng.random() < rule.duplicate else 1
        kept = 0
        for _ in range(copies):
            if self._rng.random() >= rule.loss and len(self._waiting) < WAITING_MAX:
                self._delay(rule, receiver, packet)
                kept += 1
        late = rule.delay or rule.jitter or rule.bytes_per_second
        self._touched += bool(late or kept != 1)

    def _delay(self, rule: Rule, receiver: int, packet: bytes) -> None:
        moment = time.monotonic()
        at = moment + rule.delay + self._rng.random() * rule.jitter
        if rule.bytes_per_second:
            begins = max(moment, rule.free_at)
            if begins - moment > QUEUE_SECONDS_MAX:
                return
            rule.free_at = begins + len(packet) / rule.bytes_per_second
            at += rule.free_at - moment
        heapq.heappush(self._waiting, (at, next(self._numbers), receiver, packet))

    def _send(self, receiver: int, packet: bytes) -> None:
        if 1 <= receiver <= len(self._ports):
            with suppress(OSError):  # A full queue, or no device any more: lost, as on a wire.
                os.write(self._ports[receiver - 1], packet)


def main() -> None:
    """Serve until standard input ends."""
    namespaces = [None, *sys.argv[1:]]
    ports = [open_port(name, number) for number, name in enumerate(namespaces, start=1)]
    print("ready", flush=True)
    Switch(ports, random.Random(0)).run()  # noqa: S311


if __name__ == "__main__":
    main()
