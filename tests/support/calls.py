"""Stand-ins for an authorizer and a call."""

from typing import Any

import grpc

from ipfs_cluster_node.access.context import Caller, Permissions
from ipfs_cluster_node.access.permissions import Unrestricted


class Anything:
    """An authorizer by which every caller may do anything."""

    async def decide(self, caller: Caller, *_: object) -> Permissions:
        return Unrestricted(caller)


class AbortedError(Exception):
    """A call was ended with a status, its text."""


class Context:
    """A call, with this time left to it."""

    def __init__(self, seconds: float | None = 60.0, caller: Caller | None = None) -> None:
        self.seconds = seconds
        self.caller = caller
        self.written: list[Any] = []

    async def write(self, answer: Any) -> None:
        self.written.append(answer)

    def time_remaining(self) -> float | None:
        return self.seconds

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def set_code(self, code: grpc.StatusCode) -> None:
        raise AbortedError(code.name)
