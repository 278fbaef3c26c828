"""What every call passes: who calls, may they, within which time; and errors on the way out."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, cast

import grpc

from ipfs_cluster_node.codec.errors import (
    MESSAGE_CHARS_MAX,
    STATUS_BY_REASON,
    STATUS_DETAILS_KEY,
    status_details,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.services.authorization import CALLERS_BY_METHOD
from ipfs_cluster_node.services.context import (
    AGE_KEY,
    CONSISTENCY_KEY,
    Caller,
    Reading,
    set_caller,
    set_reading,
)

log = logging.getLogger(__name__)

UNARY_TIME_SECONDS_DEFAULT: Final = 30.0
"""For a caller that sets no deadline."""
UNARY_TIME_SECONDS_MAX: Final = 600.0
UPLOAD_TIME_SECONDS_MAX: Final = 6 * 3600.0
"""For an upload whose caller sets no deadline: large files take their time."""

Context = grpc.aio.ServicerContext[Any, Any]


Identify = Callable[[Context], Caller]
"""Reads and checks the caller of a call; raises CALLER_UNKNOWN or CERTIFICATE_INVALID."""


class Gate(grpc.GenericRpcHandler):
    """The one way in: what servicers register here is behind it, by the name of each method.

    It stands for the server in what the generated `add_…Servicer_to_server` calls, and is then
    added to the server itself. Interceptors would be asked for every call anew, and with methods
    registered one by one grpc.aio waits for all of them at every call (1.85: 9 % of a call).
    """

    def __init__(self, identify: Identify) -> None:
        """Ask `identify` who calls."""
        self._identify = identify
        self._handlers: dict[str, Any] = {}

    @property
    def as_server(self) -> grpc.aio.Server:
        """This, for the generated code that registers a servicer."""
        return cast("grpc.aio.Server", self)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Guard a service's methods."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            self._handlers[method] = self._guarded(method, handler)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Nothing: the same handlers are registered by name."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The guarded method, if there is one."""
        return self._handlers.get(handler_call_details.method)

    def _guarded(self, method: str, handler: Any) -> Any:
        behaviour, streams = _behaviour(handler)
        wrap = self._streaming if handler.response_streaming else self._unary
        if handler.request_streaming and not handler.response_streaming:
            wrap = self._upload
        make = getattr(grpc, f"{streams}_rpc_method_handler")
        return make(
            wrap(method, behaviour),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unary(self, method: str, behaviour: Callable[..., Awaitable[Any]]) -> Any:
        return self._answering(method, behaviour, _time_bound)

    def _upload(self, method: str, behaviour: Callable[..., Awaitable[Any]]) -> Any:
        return self._answering(method, behaviour, _upload_time_bound)

    def _answering(
        self,
        method: str,
        behaviour: Callable[..., Awaitable[Any]],
        bound_of: Callable[[Context], float | None],
    ) -> Any:
        async def call(request: Any, context: Context) -> Any:
            try:
                reading = self._admit(method, context)
                bound = bound_of(context)
                if bound is None:
                    response = await behaviour(request, context)
                else:
                    async with asyncio.timeout(bound):
                        response = await behaviour(request, context)
                if reading.age_ms is not None:
                    context.set_trailing_metadata(((AGE_KEY, str(reading.age_ms)),))
                return response
            except Exception as error:
                await _abort(context, method, error)

        return call

    def _streaming(self, method: str, behaviour: Callable[..., Any]) -> Any:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                reading = self._admit(method, context)
                responses = behaviour(request, context)
                if hasattr(responses, "__aiter__"):
                    async for response in responses:
                        if reading.age_ms is not None:
                            context.set_trailing_metadata(((AGE_KEY, str(reading.age_ms)),))
                        yield response
                else:
                    await responses  # Health and reflection write to the context instead.
            except Exception as error:
                await _abort(context, method, error)

        return call

    def _admit(self, method: str, context: Context) -> Reading:
        caller = self._identify(context)
        if caller.kind not in CALLERS_BY_METHOD.get(method, frozenset()):
            raise ClusterError(
                Reason.CALLER_NOT_ALLOWED, f"a {caller.kind} may not call {method}; see its docs"
            )
        set_caller(caller)
        reading = Reading(stale=_wants_stale(context))
        set_reading(reading)
        return reading


def _wants_stale(context: Context) -> bool:
    asked = [value for key, value in context.invocation_metadata() or () if key == CONSISTENCY_KEY]
    match asked:
        case [] | ["linearizable"]:
            return False
        case ["stale"]:
            return True
    raise invalid_field(CONSISTENCY_KEY, "linearizable or stale")


def _behaviour(handler: Any) -> tuple[Callable[..., Any], str]:
    for streams in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        behaviour = getattr(handler, streams)
        if behaviour is not None:
            return behaviour, streams
    raise TypeError("a method handler without a behaviour")


def _time_bound(context: Context) -> float | None:
    """Seconds that a call may take; None where gRPC ends it at its caller's deadline."""
    remaining: float | None = context.time_remaining()
    if remaining is None:
        return UNARY_TIME_SECONDS_DEFAULT
    return UNARY_TIME_SECONDS_MAX if remaining > UNARY_TIME_SECONDS_MAX else None


def _upload_time_bound(context: Context) -> float | None:
    return UPLOAD_TIME_SECONDS_MAX if context.time_remaining() is None else None


async def _abort(context: Context, method: str, error: BaseException) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, TimeoutError):
        error = ClusterError(
            Reason.DEADLINE_EXCEEDED,
            "the time for the call is over; a write may still commit, repeat it with the same "
            "request id",
        )
    if not isinstance(error, ClusterError):
        # Callers learn nothing of our inside; the log has it.
        log.error("method failed", extra={"method": method}, exc_info=error)
        error = ClusterError(Reason.INTERNAL, "the node failed; its log says why")
    await context.abort(
        STATUS_BY_REASON[error.reason],
        str(error)[:MESSAGE_CHARS_MAX],
        ((STATUS_DETAILS_KEY, status_details(error)),),
    )
