"""Free ports of this machine, for nodes that are started here."""

import random
import socket
from collections.abc import Collection
from contextlib import suppress
from typing import Final

LOOPBACK: Final = "127.0.0.1"
PORTS: Final = range(20_000, 32_000)
"""Below the ephemeral ports: a connection could take one of those before the node listens."""
PORT_TRIES_MAX: Final = 10_000

_given_ports: set[int] = set()


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of loopback."""
    with socket.socket() as probe, suppress(OSError):
        # As the servers do: remains of closed connections don't block it.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
        return True
    return False


def free_port(taken: Collection[int] = ()) -> int | None:
    """A port that nothing listens on, that was not returned before, and that is none of `taken`.

    None, if none was found.
    """
    for _ in range(PORT_TRIES_MAX):
        port = random.choice(PORTS)  # noqa: S311
        if port not in _given_ports and port not in taken and is_free(port):
            _given_ports.add(port)
            return port
    return None
