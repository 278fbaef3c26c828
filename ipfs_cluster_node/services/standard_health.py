"""The standard `grpc.health.v1`, for probes and load balancers.

Not the servicer of `grpcio-health-checking`: it keeps the names that watchers send, and when one
watcher ends, the others wait for ever.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ipfs_cluster_node.services.gate import Gate

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class StandardHealthServicer(health_pb2_grpc.HealthServicer):
    """Reports whether the node serves, under each of a few names."""

    def __init__(self, names: Iterable[str]) -> None:
        """Take the names; start as not serving."""
        self._names = frozenset(names)
        self._status: int = health_pb2.HealthCheckResponse.NOT_SERVING
        self._changed = asyncio.Event()
        """Of the next change: one for all watchers, so that none of them owns it."""

    def set_serving(self, serving: bool) -> None:  # noqa: FBT001
        """Set whether the node serves."""
        known = health_pb2.HealthCheckResponse
        status = known.SERVING if serving else known.NOT_SERVING
        if status != self._status:
            self._status = status
            self._changed.set()
            self._changed = asyncio.Event()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        """Whether a service serves now."""
        if request.service not in self._names:
            _answer_unknown(context)
        return health_pb2.HealthCheckResponse(status=self._status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Whether a service serves, and each change of that."""
        if request.service not in self._names:
            # The served names never change. Waiting would keep any name that was sent.
            yield health_pb2.HealthCheckResponse(
                status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            )
            _answer_unknown(context)
            return
        told = None
        while True:
            changed = self._changed
            if self._status != told:
                told = self._status
                yield health_pb2.HealthCheckResponse(status=told)
            await changed.wait()


def _answer_unknown(context: Any) -> None:
    context.set_code(grpc.StatusCode.NOT_FOUND)
    context.set_details("no such service here")


def add_check_alone(health: StandardHealthServicer, gate: Gate) -> None:
    """Register `Check` only: a watch by an unknown caller would hold a call for ever."""
    gate.add_registered_method_handlers(
        SERVICE,
        {
            "Check": grpc.unary_unary_rpc_method_handler(
                health.Check,
                request_deserializer=health_pb2.HealthCheckRequest.FromString,
                response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
            )
        },
    )
