"""Finds the leader and follows it, within the caller's deadline."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import cache
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ipfs_cluster_node.adapters.net.answers import KeptAnswer
from ipfs_cluster_node.adapters.net.channels import Channels, Target
from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.client.patience import Patience, cause_of, is_refused, no_answer_at
from ipfs_cluster_node.codec.errors import error_from_rpc, is_being_cancelled
from ipfs_cluster_node.codec.metadata import CONSISTENCY_KEY, UCAN_KEY
from ipfs_cluster_node.core.errors import ClusterError, Reason, Trait, most_useful
from ipfs_cluster_node.core.ids import NodeId

ATTEMPT_SECONDS_MAX: Final = 10.0
"""Longest wait for one node, so that a stopped node does not use up the whole deadline."""
RETRY_DELAY_MIN_SECONDS: Final = 0.05
RETRY_DELAY_MAX_SECONDS: Final = 1.0
HEARD_SECONDS: Final = 0.5
"""Within which a healthy node answers."""

Answer = TypeVar("Answer")


class Connection:
    """Channels to the masters of one cluster."""

    def __init__(
        self,
        targets: Iterable[Target],
        tls: ClientTls | None,
        *,
        stale: bool = False,
        ucan: str = "",
        patience: Patience | None = None,
    ) -> None:
        """Start with at least one master; others are learned.

        With `stale` any master may answer reads from its own copy. Every call carries `ucan`, a
        container of delegations. Without `patience` every call waits until its deadline.
        """
        self._patience = patience
        self._targets: list[Target] = list(dict.fromkeys(targets))
        self._tls = tls
        self.metadata: tuple[tuple[str, str], ...] = ()
        if stale:
            self.metadata += ((CONSISTENCY_KEY, "stale"),)
        if ucan:
            self.metadata += ((UCAN_KEY, ucan),)
        self._channels = Channels(lambda: self._tls)
        self._current = 0

    @property
    def targets(self) -> tuple[Target, ...]:
        """All known masters."""
        return tuple(self._targets)

    def learn(self, targets: Iterable[Target]) -> None:
        """Replace the known masters, the preferred first; an empty list is ignored."""
        learned = list(dict.fromkeys(targets))
        if learned:
            self._targets = learned
            self._current = 0

    def add(self, targets: Iterable[Target]) -> None:
        """Add masters to try when the present ones do not answer."""
        self._targets = list(dict.fromkeys([*self._targets, *targets]))

    def channel(self, target: Target) -> grpc.aio.Channel:
        """The channel to one node, created on first use."""
        return self._channels.get(target)

    async def unary(
        self,
        request: Message,
        *,
        timeout: float,
        attempt_timeout: float = ATTEMPT_SECONDS_MAX,
    ) -> Any:
        """Call the method that takes `request`, which is safe to repeat, at the leader.

        All attempts together take `timeout` seconds, one node's answer `attempt_timeout`.

        Raises:
            ClusterError: The leader's error, or why it could not be reached.
        """

        async def call(channel: grpc.aio.Channel, seconds: float) -> Any:
            return await _method(channel, type(request))(
                request, timeout=min(seconds, attempt_timeout), metadata=self.metadata
            )

        return await self.following(call, timeout=timeout)

    async def following(
        self,
        operation: Callable[[grpc.aio.Channel, float], Awaitable[Answer]],
        *,
        timeout: float,
    ) -> Answer:
        """Run an operation at the leader, retrying for `timeout` seconds if that may help.

        It takes a channel and the seconds left.

        Raises:
            ClusterError: The cluster's refusal, or the most useful of the masters' errors.
        """
        now = asyncio.get_running_loop().time
        started = now()
        deadline = started + timeout
        delay = RETRY_DELAY_MIN_SECONDS
        tried: set[Target] = set()
        avoided: set[str] = set()
        answers: dict[str, ClusterError] = {}
        """Each master's last error."""
        refusal_last: tuple[Target, ClusterError] | None = None
        while True:
            target = self._targets[self._current % len(self._targets)]
            error: ClusterError
            began = now()
            try:
                answer = await operation(self.channel(target), max(0.001, deadline - now()))
            except grpc.aio.AioRpcError as rpc_error:
                error = error_from_rpc(rpc_error)
            except ClusterError as cluster_error:
                error = cluster_error
            except (asyncio.CancelledError, asyncio.InvalidStateError, grpc.aio.UsageError):
                if is_being_cancelled():
                    raise
                error = ClusterError(Reason.UNREACHABLE, "the connection broke")
            else:
                self._note_answer()
                return answer
            if not error.reason.has(Trait.NO_ANSWER):
                self._note_answer()
            if not error.reason.has(Trait.RETRYABLE | Trait.MASTER_LOCAL):
                raise error
            answers.pop(target[0], None)
            answers[target[0]] = error  # The most recent one is the last.
            refusal = _verdict(answers, {address for address, _ in self._targets})
            if refusal is not None:
                raise refusal
            refusal_last = _last_refusal(refusal_last, target, error, seconds=now() - began)
            if error.reason.has(Trait.NO_ANSWER | Trait.MASTER_LOCAL):
                avoided.add(target[0])
            if avoided >= {address for address, _ in self._targets}:
                avoided.clear()
            moved = self._follow(error, target, avoided)
            if moved and target not in tried:
                tried.add(target)
                pause = 0.0  # The leader was named: try it at once.
            else:
                pause = delay * (0.5 + random.random())  # noqa: S311
                delay = min(2 * delay, RETRY_DELAY_MAX_SECONDS)
                tried.clear()
            if now() + pause >= deadline or self._gives_up(
                answers, waited=now() - started, now=now()
            ):
                # An answer from a master says more than a failure to reach another.
                last = (target, self._unreachable(error)) if refusal_last is None else refusal_last
                local_errors = [
                    each for each in answers.items() if each[1].reason.has(Trait.MASTER_LOCAL)
                ]
                raise _most_useful([(last[0][0], last[1]), *local_errors])
            await asyncio.sleep(pause)

    def _follow(self, error: ClusterError, target: Target, avoided: set[str]) -> bool:
        """Choose the next master to try; True if the leader was named.

        A named leader that did not answer, or failed for a reason of its own, is not tried again
        just because another master still names it: the two would send the caller back and forth
        until the deadline.
        """
        leader = error.leader
        if error.reason is Reason.NOT_LEADER and leader is not None and leader.endpoints:
            named: Target = (leader.endpoints[0], NodeId(leader.node_id))
            if named not in self._targets:
                self._targets.append(named)
            if named[0] not in avoided:
                self._current = self._targets.index(named)
                return named != target
        if error.reason not in (Reason.OVERLOADED, Reason.HOLDERS_MISSING):
            # It may have been dropped meanwhile: masters come and go.
            at = self._targets.index(target) if target in self._targets else -1
            self._current = (at + 1) % len(self._targets)
        return False

    def _note_answer(self) -> None:
        if self._patience is not None:
            self._patience.answered = True

    def _gives_up(self, answers: Mapping[str, ClusterError], *, waited: float, now: float) -> bool:
        known = {address for address, _ in self._targets}
        return self._patience is not None and self._patience.is_over(answers, known, waited, now)

    def _unreachable(self, error: ClusterError) -> ClusterError:
        if not error.reason.has(Trait.NO_ANSWER):
            return error
        asked = no_answer_at({address for address, _ in self._targets})
        advice = (
            "start them with `ipfs-cluster-node serve`, or a small cluster with "
            "`ipfs-cluster-node dev`"
            if is_refused(error)
            else "check that they run, that the certificate belongs to this cluster, and that the "
            "clocks are right"
        )
        return ClusterError(error.reason, f"{asked} ({cause_of(error)}); {advice}")

    async def renew(self, tls: ClientTls) -> None:
        """Present another certificate: the channels in use are replaced once new ones are ready.

        Calls in progress finish on the old ones.
        """
        self._tls = tls
        await self._channels.renew()

    async def close(self) -> None:
        """Close every channel."""
        await self._channels.close()


def _own_refusals(answers: Mapping[str, ClusterError]) -> list[tuple[str, ClusterError]]:
    """The errors that masters report about themselves and that waiting does not cure."""
    return [
        (address, error)
        for address, error in answers.items()
        if error.reason.has(Trait.MASTER_LOCAL) and not error.reason.has(Trait.RETRYABLE)
    ]


def _verdict(answers: Mapping[str, ClusterError], known: set[str]) -> ClusterError | None:
    """The error to raise before the deadline; None while another master may succeed.

    A certificate is invalid only if a majority says so: one master's clock may be wrong, and then
    another will lead soon. For any other error it is enough that every master was tried once.
    """
    refusals = _own_refusals(answers)
    invalid = [each for each in refusals if each[1].reason is Reason.CERTIFICATE_INVALID]
    if 2 * len(invalid) > len(known):
        return _most_useful(invalid)
    others = [each for each in refusals if each not in invalid]
    return _most_useful(others) if others and known <= answers.keys() else None


def _most_useful(found: Iterable[tuple[str, ClusterError]]) -> ClusterError:
    """The most useful of these errors, with its master's address if it is about that master."""
    found = list(found)
    error = most_useful(error for _, error in found)
    assert error is not None
    if not error.reason.has(Trait.MASTER_LOCAL):
        return error
    address = next(address for address, each in found if each is error)
    return ClusterError(
        error.reason,
        f"{error.message} (said by {address})",
        metadata={**error.metadata, "master": address},
        retry_after=error.retry_after,
        violations=error.violations,
        leader=error.leader,
    )


def _last_refusal(
    before: tuple[Target, ClusterError] | None,
    target: Target,
    error: ClusterError,
    *,
    seconds: float,
) -> tuple[Target, ClusterError] | None:
    """The latest refusal by a master, raised at the deadline; None once it no longer applies.

    It no longer applies once a master names another leader, once its sender is gone, or once a
    master did not answer in time. An attempt that had hardly any time changes nothing: the last one
    may start right before the deadline.
    """
    if error.reason is Reason.NOT_LEADER:
        return None
    if not error.reason.has(Trait.NO_ANSWER):
        return target, error
    if error.reason is Reason.DEADLINE_EXCEEDED and seconds > HEARD_SECONDS:
        return None
    gone = before is not None and before[0] == target and error.reason is Reason.UNREACHABLE
    return None if gone else before


def _method(channel: grpc.aio.Channel, request: Any) -> Any:
    """What a stub would have for this request; a whole stub costs as much for each method."""
    path, answer = _described(request)
    return channel.unary_unary(
        path,
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )


@cache
def _described(request: Any) -> tuple[str, type[Message]]:
    """The path of the method that takes this message, and the message that answers it."""
    service, method = next(
        (service, method)
        for service in request.DESCRIPTOR.file.services_by_name.values()
        for method in service.methods
        if method.input_type == request.DESCRIPTOR
    )
    return f"/{service.full_name}/{method.name}", GetMessageClass(method.output_type)


def new_request_id() -> str:
    """A unique request id."""
    return secrets.token_hex(12)


async def send_all(call: Any, requests: AsyncIterator[Any]) -> Any:
    """Write every request to a client-streaming call, and return its response.

    Not left to gRPC's own iteration, which would hide an error in the iterator and could take half
    of its items for all.

    Raises:
        ClusterError: The call's error; UNREACHABLE if the connection broke.
        Exception: As `requests` raised; the call is then cancelled.
    """
    kept = KeptAnswer(call)
    try:
        try:
            async for request in requests:
                await call.write(request)
            await call.done_writing()
        except asyncio.InvalidStateError:
            pass  # The call has already ended, and says why.
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(await kept.error(error)) from error
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        raise ClusterError(Reason.UNREACHABLE, "the connection broke") from error
    finally:
        call.cancel()
