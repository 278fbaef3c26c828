"""The gate of every call: identity, permission, deadline; and errors on the way out."""

import asyncio
import logging
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc

from ipfs_cluster_node.access.audited import audited
from ipfs_cluster_node.access.call_tokens import CallTokens, Context, read_metadata
from ipfs_cluster_node.access.context import (
    Caller,
    CallerClass,
    Ending,
    Permissions,
    Reading,
    set_ending,
    set_permissions,
    set_reading,
)
from ipfs_cluster_node.access.rules import RULES_BY_METHOD, Rule
from ipfs_cluster_node.access.shares import Shares
from ipfs_cluster_node.access.turns import Turn, Turns, set_turn
from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.codec.errors import (
    MESSAGE_CHARS_MAX,
    on_the_wire,
    status_of,
    trailers_of,
)
from ipfs_cluster_node.codec.metadata import AGE_KEY
from ipfs_cluster_node.core.audit import FIELD_CHARS_MAX, AuditLog, AuditRecord, Outcome
from ipfs_cluster_node.core.errors import ClusterError, Reason, Trait, invalid_field
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.services.requests import Read, Requests, reader_of, written

log = logging.getLogger(__name__)

UNARY_TIME_SECONDS_DEFAULT: Final = 30.0
"""For a caller that sets no deadline."""
UNARY_TIME_SECONDS_MAX: Final = 600.0
UPLOAD_TIME_SECONDS_MAX: Final = 6 * 3600.0
"""For an upload without a deadline: large files take time."""
WATCH_SECONDS: Final = 0.5
"""How often running streams are checked again."""
WATCHED_A_TURN: Final = 16
"""Streams checked before yielding to the event loop, so that consensus is not delayed."""
WATCH_CALLER: Final = "gate"
"""The caller under whose name those checks take turns."""
UNDELAYED: Final = frozenset({CallerClass.MASTER, CallerClass.NODE})
"""Callers whose calls begin at once, whatever the load: consensus, heartbeats, and the attempts
of workers, which their slots bound."""
FIRST_REQUEST_SECONDS_MAX: Final = 10.0
"""For the first message of an upload, by which it is authorized."""

Identify = Callable[[Context], Caller]
"""Identifies the caller of a call; raises CALLER_UNKNOWN or CERTIFICATE_INVALID."""


class Authorizes(Protocol):
    """Decides what a caller may do."""

    async def decide(
        self, caller: Caller, rule: Rule, request: Any, tokens: CallTokens
    ) -> Permissions:
        """Decide a call; raises ClusterError."""


@dataclass(eq=False, slots=True)
class _Running:
    """A stream or upload in progress."""

    task: asyncio.Task[Any]
    context: Context
    rule: Rule
    permissions: Permissions
    ending: Ending
    """By its rule, or what it is doing now."""
    ended_by: ClusterError | None = None


class Gate(grpc.GenericRpcHandler):
    """Authorizes every call of the servicers registered here, by the name of each method.

    It is added to the server itself. Interceptors would run for every call again, and with methods
    registered one by one grpc.aio awaits all of them at every call (1.85: 9 % of a call).
    """

    def __init__(
        self,
        identify: Identify,
        authorizer: Authorizes,
        rules: Mapping[str, Rule] = RULES_BY_METHOD,
        audit: AuditLog | None = None,
        turns: Turns | None = None,
        *,
        name_of: Callable[[Did], str] = lambda _did: "",
        clock: Clock,
    ) -> None:
        """Identify callers by `identify`, and authorize them by `authorizer` and these rules.

        `audit` records calls that are denied, or change something, with the name that `name_of`
        gives for the caller; `turns` are those of the event loop, if another port shares it.
        """
        self._name_of = name_of
        self._audit = audit
        self._turns = turns or Turns(clock.monotonic)
        self._clock = clock
        self._shares = Shares()
        self._identify = identify
        self._authorizer = authorizer
        self._handlers: dict[str, Any] = {}
        self._rules = rules
        self._running: set[_Running] = set()
        self._hurried = asyncio.Event()

    def recheck_now(self) -> None:
        """Check the running streams now: something was revoked."""
        self._hurried.set()

    def serve(self, *servicers: Any) -> None:
        """Register servicers, each by the generated function beside its class's base."""
        for servicer in servicers:
            base: Any = type(servicer).__base__
            add = getattr(sys.modules[base.__module__], f"add_{base.__name__}_to_server")
            add(servicer, self)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Guard a service's methods."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            self._handlers[method] = self._guarded(method, handler)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Do nothing: the same handlers are registered by name."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The guarded method, if there is one."""
        return self._handlers.get(handler_call_details.method)

    async def watch(self) -> None:
        """End running streams whose callers have lost permission; until cancelled."""
        set_turn(Turn(self._turns, WATCH_CALLER))
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._hurried.wait()
            self._hurried.clear()
            for number, running in enumerate(list(self._running), 1):
                if number % WATCHED_A_TURN == 0:
                    await asyncio.sleep(0)
                if running not in self._running:
                    continue  # It ended meanwhile.
                try:
                    if asyncio.get_running_loop().time() > running.ending.at:
                        raise ClusterError(
                            Reason.DEADLINE_EXCEEDED,
                            "its answer was not read in the time that it may take; read it faster",
                        )
                    self._check_class(running.rule, self._identify(running.context))
                    await running.permissions.renew()
                except ClusterError as error:
                    running.ended_by = error
                    running.task.cancel()

    def _guarded(self, method: str, handler: Any) -> Any:
        rule = self._rules.get(method)
        if rule is None:
            raise ValueError(f"{method} has no rule: its proto lacks the option")
        behaviour, streams = _behaviour(handler)
        read = reader_of(handler.request_deserializer, rule.decode)
        if handler.response_streaming:
            call = self._streaming(method, rule, behaviour, read, streams)
        elif handler.request_streaming:
            call = self._upload(method, rule, behaviour, read)
        else:
            call = self._unary(method, rule, behaviour, read)
        call = self._bounded(rule, call)
        if streams == "stream_unary":
            call, streams = written(call), "stream_stream"
        make = getattr(grpc, f"{streams}_rpc_method_handler")
        # Without a deserializer: gRPC would parse before the caller is authorized.
        return make(call, response_serializer=handler.response_serializer)

    def _bounded(self, rule: Rule, call: Callable[..., Awaitable[Any]]) -> Any:
        """The same, limited to as many at once as the rule's share allows."""
        if rule.share is None:
            return call

        async def bounded(request: Any, context: Context) -> Any:
            caller = self._named(context)
            if caller is None or caller.kind in UNDELAYED:
                return await call(request, context)
            try:
                with self._shares.taken(rule.share, caller.did):
                    return await call(request, context)
            except ClusterError as error:
                _answer(context, error)

        return bounded

    def _unary(
        self, method: str, rule: Rule, behaviour: Callable[..., Awaitable[Any]], read: Read
    ) -> Any:
        async def call(data: bytes, context: Context) -> Any:
            request = None
            permissions: Permissions | None = None
            try:
                caller = await self._enter(rule, context)
                request = read(data)
                permissions, reading = await self._admit(caller, rule, request, data, context)
                bound = _time_bound(context)
                if bound is None:
                    response = await behaviour(request, context)
                else:
                    async with asyncio.timeout(bound):
                        response = await behaviour(request, context)
                if reading.age_ms is not None:
                    context.set_trailing_metadata(((AGE_KEY, str(reading.age_ms)),))
                self._note(method, rule, request, context, permissions, answer=response)
                return response
            except asyncio.CancelledError:
                self._note_cancelled(method, rule, request, context, permissions)
                raise
            except Exception as error:
                self._refuse(method, rule, request, context, permissions, error)

        return call

    def _upload(
        self, method: str, rule: Rule, behaviour: Callable[..., Awaitable[Any]], read: Read
    ) -> Any:
        async def call(incoming: AsyncIterator[bytes], context: Context) -> Any:
            running: _Running | None = None
            permissions: Permissions | None = None
            first = None
            data = b""
            try:
                if rule.command is not None:
                    self._check_class(rule, self._identify(context))
                    async with asyncio.timeout(FIRST_REQUEST_SECONDS_MAX):
                        came = await anext(incoming, None)
                    if came is None:
                        raise invalid_field("message", "nothing came")
                    data = came
                caller = await self._enter(rule, context)
                if rule.command is not None:
                    first = read(data)
                permissions, _ = await self._admit(caller, rule, first, data, context)
                data = came = b""  # An upload would keep it until it ends.
                running = self._run(rule, permissions, context)
                requests = Requests(read, incoming, first)
                bound = UPLOAD_TIME_SECONDS_MAX if context.time_remaining() is None else None
                async with asyncio.timeout(bound):
                    response = await behaviour(requests, context)
                self._note(method, rule, first, context, permissions, answer=response)
                return response
            except asyncio.CancelledError:
                ended_by = None if running is None else running.ended_by
                self._note_cancelled(method, rule, first, context, permissions, ended_by)
                if not _answer_ended(running):
                    raise
            except Exception as error:
                self._refuse(method, rule, first, context, permissions, error)
            finally:
                if running is not None:
                    self._running.discard(running)

        return call

    def _streaming(
        self, method: str, rule: Rule, behaviour: Callable[..., Any], read: Read, streams: str
    ) -> Any:
        if streams == "stream_stream" and rule.command is not None:
            raise ValueError(f"{method}: a bidirectional stream is judged by its caller's class")

        # Written here, not yielded to gRPC: a stream that is ended while its reader is slow would
        # end in gRPC's own code, which sends the reader no status and leaves it waiting.
        async def call(came: Any, context: Context) -> None:
            running: _Running | None = None
            permissions: Permissions | None = None
            request = None
            data = came if streams == "unary_stream" else b""
            try:
                caller = await self._enter(rule, context)
                request = read(data) if streams == "unary_stream" else Requests(read, came)
                permissions, reading = await self._admit(caller, rule, request, data, context)
                running = self._run(rule, permissions, context)
                responses = behaviour(request, context)
                if hasattr(responses, "__aiter__"):
                    noted = False
                    async with aclosing(responses):
                        async for response in responses:
                            if not noted:
                                # At the first answer: a caller may read it, then break off.
                                self._note(method, rule, request, context, permissions)
                                noted = True
                            if reading.age_ms is not None:
                                context.set_trailing_metadata(((AGE_KEY, str(reading.age_ms)),))
                            await context.write(response)
                else:
                    await responses  # Health and reflection write to the context instead.
            except asyncio.CancelledError:
                if running is not None and running.ended_by is not None:
                    self._note(method, rule, request, context, permissions, running.ended_by)
                if not _answer_ended(running):
                    raise
            except Exception as error:
                self._refuse(method, rule, request, context, permissions, error)
            finally:
                if running is not None:
                    self._running.discard(running)

        return call

    def _run(self, rule: Rule, permissions: Permissions, context: Context) -> _Running:
        task = asyncio.current_task()
        assert task is not None
        seconds = math.inf if rule.seconds_max is None else rule.seconds_max
        ending = Ending(asyncio.get_running_loop().time() + seconds)
        set_ending(ending)
        running = _Running(task, context, rule, permissions, ending)
        self._running.add(running)
        return running

    async def _enter(self, rule: Rule, context: Context) -> Caller:
        """The caller, if its class may call this; before anything of the request is read."""
        caller = self._identify(context)
        self._check_class(rule, caller)
        if caller.kind not in UNDELAYED and self._turns.crowded():
            await self._turns.next(caller.did)
        set_turn(Turn(self._turns, caller.did))
        return caller

    async def _admit(
        self, caller: Caller, rule: Rule, request: Any, data: bytes, context: Context
    ) -> tuple[Permissions, Reading]:
        """Authorize a call by its request, and a signed one by the request's bytes."""
        stale, tokens = read_metadata(context, data)
        permissions = await self._authorizer.decide(caller, rule, request, tokens)
        set_permissions(permissions)
        reading = Reading(stale=stale)
        set_reading(reading)
        return permissions, reading

    def _refuse(
        self,
        method: str,
        rule: Rule,
        request: Any,
        context: Context,
        permissions: Permissions | None,
        error: Exception,
    ) -> None:
        """Answer with a failure, and audit it."""
        public_error = _public_error(method, error)
        self._note(method, rule, request, context, permissions, public_error)
        _answer(context, public_error)

    def _note_cancelled(
        self,
        method: str,
        rule: Rule,
        request: Any,
        context: Context,
        permissions: Permissions | None,
        ended_by: ClusterError | None = None,
    ) -> None:
        """Audit a call that ends before its answer: its changes may still be committed.

        `ended_by` says why, if this node ended it.
        """
        error = ended_by
        if rule.changes:
            why = "" if ended_by is None else f" ({ended_by.reason}: {ended_by})"
            error = ClusterError(
                Reason.UNKNOWN_OUTCOME, f"the call ended before it was answered{why}"
            )
        if permissions is not None and error is not None:
            self._note(method, rule, request, context, permissions, error)

    def _note(
        self,
        method: str,
        rule: Rule,
        request: Any,
        context: Context,
        permissions: Permissions | None,
        error: ClusterError | None = None,
        answer: Any = None,
    ) -> None:
        """Add a call to the audit log, if it belongs there."""
        if self._audit is None:
            return
        denied = error is not None and error.reason.has(Trait.DENIED)
        attempted = error is None or not error.reason.has(Trait.NOT_AUDITED)
        if not denied and not (rule.changes and attempted):
            return
        caller = self._named(context) if permissions is None else permissions.caller
        asked = getattr(request, "header", request)
        about = audited(rule.audited, request, answer)
        outcome = Outcome.ALLOWED if error is None else Outcome.FAILED
        self._audit.record(
            AuditRecord(  # By position: by name it takes twice as long.
                self._clock.wall_ms(),
                "" if caller is None else caller.did,
                "" if caller is None else caller.kind.value,
                context.peer(),
                method,
                rule.command or "",
                Outcome.DENIED if denied else outcome,
                "" if caller is None else self._name_of(caller.did),
                _delegations_of(permissions, error),
                about.kind,
                about.name,
                about.arguments,
                getattr(asked, "request_id", "")[:FIELD_CHARS_MAX],
                "" if error is None else f"{error.reason}: {error}"[:FIELD_CHARS_MAX],
            )
        )

    def _named(self, context: Context) -> Caller | None:
        try:
            return self._identify(context)
        except ClusterError:
            return None

    @staticmethod
    def _check_class(rule: Rule, caller: Caller) -> None:
        if caller.kind not in rule.callers:
            raise ClusterError(
                Reason.CALLER_NOT_ALLOWED,
                f"a {caller.kind} may not call this method; docs/authorization.md lists who may",
            )


def _delegations_of(permissions: Permissions | None, error: ClusterError | None) -> tuple[str, ...]:
    """The delegations that allowed a call; of a denied one, the token that was invalid."""
    if permissions is not None:
        return permissions.delegation_cids
    cid = "" if error is None else error.metadata.get("cid", "")
    return (cid,) if cid else ()


def _behaviour(handler: Any) -> tuple[Callable[..., Any], str]:
    for streams in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        behaviour = getattr(handler, streams)
        if behaviour is not None:
            return behaviour, streams
    raise TypeError("a method handler without a behaviour")


def _time_bound(context: Context) -> float | None:
    """The time limit of a call in seconds; None if gRPC ends it at its caller's deadline."""
    remaining: float | None = context.time_remaining()
    if remaining is None:
        return UNARY_TIME_SECONDS_DEFAULT
    return UNARY_TIME_SECONDS_MAX if remaining > UNARY_TIME_SECONDS_MAX else None


def _public_error(method: str, error: Exception) -> ClusterError:
    """The error that a caller sees; internal details only go to the log."""
    if isinstance(error, ClusterError):
        return error
    if isinstance(error, TimeoutError):
        return ClusterError(
            Reason.DEADLINE_EXCEEDED,
            "the call timed out; a write may still commit, repeat it with the same request id",
        )
    log.error("method failed", extra={"method": method}, exc_info=error)
    return ClusterError(Reason.INTERNAL, "the node failed; its log says why")


def _answer_ended(running: _Running | None) -> bool:
    """The reason, if this node ended a stream."""
    if running is None or running.ended_by is None:
        return False
    running.task.uncancel()
    _answer(running.context, running.ended_by)
    return True


def _answer(context: Context, error: ClusterError) -> None:
    """End a call, which returns right after, with an error.

    Not by `context.abort`: the exception it raises is kept with the call, and with it every frame
    it passed and the request, until the cyclic collector runs.
    """
    context.set_code(status_of(on_the_wire(error.reason)))
    context.set_details(str(error)[:MESSAGE_CHARS_MAX])
    context.set_trailing_metadata(trailers_of(error))
