"""Finds the leader and follows it, within the caller's deadline."""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import grpc

from ipfs_cluster_node.adapters.net.answers import KeptAnswer
from ipfs_cluster_node.adapters.net.channels import Channels, Target
from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.codec.errors import error_from_rpc, is_being_cancelled
from ipfs_cluster_node.codec.metadata import CONSISTENCY_KEY, UCAN_KEY
from ipfs_cluster_node.core.errors import (
    ClusterError,
    Reason,
    Trait,
    most_useful,
)
from ipfs_cluster_node.core.ids import NodeId

ATTEMPT_SECONDS_MAX: Final = 10.0
"""Longest wait for one node, so that a stopped one does not use up the whole deadline."""
RETRY_DELAY_MIN_SECONDS: Final = 0.05
RETRY_DELAY_MAX_SECONDS: Final = 1.0
HEARD_SECONDS: Final = 0.5
"""Within which a node that is well answers."""

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
    ) -> None:
        """Know some masters; others are learned.

        Args:
            targets: At least one.
            tls: Who calls.
            stale: What any master has will do for reads.
            ucan: A container of delegations that every call brings.
        """
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
        """Every master known."""
        return tuple(self._targets)

    def learn(self, targets: Iterable[Target]) -> None:
        """Replace what is known, the preferred first; nothing is forgotten for nothing."""
        learned = list(dict.fromkeys(targets))
        if learned:
            self._targets = learned
            self._current = 0

    def add(self, targets: Iterable[Target]) -> None:
        """Know more masters, to ask when the present ones do not answer."""
        self._targets = list(dict.fromkeys([*self._targets, *targets]))

    def channel(self, target: Target) -> grpc.aio.Channel:
        """The channel to one node, made when it is first needed."""
        return self._channels.get(target)

    async def unary(
        self,
        method: Callable[..., Any],
        request: Any,
        *,
        timeout: float,
        attempt_timeout: float = ATTEMPT_SECONDS_MAX,
    ) -> Any:
        """Call a method of a stub class at the leader.

        Args:
            method: Takes a channel, gives the multicallable.
            request: Safe to repeat.
            timeout: Seconds for all attempts together.
            attempt_timeout: Seconds for one node to answer.

        Raises:
            ClusterError: What the leader answered, or why it could not be reached.
        """

        async def call(channel: grpc.aio.Channel, seconds: float) -> Any:
            return await method(channel)(
                request, timeout=min(seconds, attempt_timeout), metadata=self.metadata
            )

        return await self.following(call, timeout=timeout)

    async def following(
        self,
        operation: Callable[[grpc.aio.Channel, float], Awaitable[Answer]],
        *,
        timeout: float,
    ) -> Answer:
        """Run an operation at the leader, again where a repeat may help.

        Args:
            operation: Takes a channel and the seconds left.
            timeout: Seconds for all attempts together.

        Raises:
            ClusterError: What the cluster refused; else the most useful of what masters said.
        """
        deadline = time.monotonic() + timeout
        delay = RETRY_DELAY_MIN_SECONDS
        tried: set[Target] = set()
        avoided: set[str] = set()
        answers: dict[str, ClusterError] = {}
        """What each master said last."""
        said: tuple[Target, ClusterError] | None = None
        while True:
            target = self._targets[self._current % len(self._targets)]
            error: ClusterError
            began = time.monotonic()
            try:
                return await operation(
                    self.channel(target), max(0.001, deadline - time.monotonic())
                )
            except grpc.aio.AioRpcError as rpc_error:
                error = error_from_rpc(rpc_error)
            except ClusterError as cluster_error:
                error = cluster_error
            except (asyncio.CancelledError, asyncio.InvalidStateError, grpc.aio.UsageError):
                if is_being_cancelled():
                    raise
                error = ClusterError(Reason.UNREACHABLE, "the connection broke")
            if not error.reason.has(Trait.REPEATED | Trait.OF_ONE_MASTER):
                raise error
            answers[target[0]] = error
            refusal = _verdict(answers, {address for address, _ in self._targets})
            if refusal is not None:
                raise refusal
            said = _last_said(said, target, error, seconds=time.monotonic() - began)
            if error.reason.has(Trait.SILENT | Trait.OF_ONE_MASTER):
                avoided.add(target[0])
            if avoided >= {address for address, _ in self._targets}:
                avoided.clear()
            moved = self._follow(error, target, avoided)
            if moved and target not in tried:
                tried.add(target)
                pause = 0.0  # The leader was named: ask it at once.
            else:
                pause = delay * (0.5 + random.random())  # noqa: S311
                delay = min(2 * delay, RETRY_DELAY_MAX_SECONDS)
                tried.clear()
            if time.monotonic() + pause >= deadline:
                # Why no other node answers says less than what one that did answer said.
                last = (target, self._unreachable(error)) if said is None else said
                of_themselves = [
                    each for each in answers.items() if each[1].reason.has(Trait.OF_ONE_MASTER)
                ]
                raise _told([(last[0][0], last[1]), *of_themselves])
            await asyncio.sleep(pause)

    def _follow(self, error: ClusterError, target: Target, avoided: set[str]) -> bool:
        """Choose whom to ask next; True if the leader was named.

        A leader that did not answer, or refused by what is wrong with itself, is not asked again
        because of who still believes in it: the two would send each other the caller until the time
        is over.
        """
        leader = error.metadata.get("leader_node_id")
        addresses = [a for a in error.metadata.get("leader_endpoints", "").split(",") if a]
        if error.reason is Reason.NOT_LEADER and leader and addresses:
            named: Target = (addresses[0], NodeId(leader))
            if named not in self._targets:
                self._targets.append(named)
            if named[0] not in avoided:
                self._current = self._targets.index(named)
                return named != target
        if error.reason not in (Reason.OVERLOADED, Reason.HOLDERS_MISSING):
            # It may have been forgotten meanwhile: masters come and go.
            at = self._targets.index(target) if target in self._targets else -1
            self._current = (at + 1) % len(self._targets)
        return False

    def _unreachable(self, error: ClusterError) -> ClusterError:
        if not error.reason.has(Trait.SILENT):
            return error
        asked = ", ".join(dict.fromkeys(address for address, _ in self._targets))
        return ClusterError(
            error.reason,
            f"no master answers at {asked} ({error.message}); check that they run, that the "
            "certificate is of this cluster, and that the clocks are right",
        )

    async def renew(self, tls: ClientTls) -> None:
        """Show another certificate: the channels in use are made anew, ready before they are used.

        Calls under way end on the old ones.
        """
        self._tls = tls
        await self._channels.renew()

    async def close(self) -> None:
        """Close every channel."""
        await self._channels.close()


def _own_refusals(answers: Mapping[str, ClusterError]) -> list[tuple[str, ClusterError]]:
    """What masters said of themselves that does not pass by waiting."""
    return [
        (address, error)
        for address, error in answers.items()
        if error.reason.has(Trait.OF_ONE_MASTER) and not error.reason.has(Trait.REPEATED)
    ]


def _verdict(answers: Mapping[str, ClusterError], known: set[str]) -> ClusterError | None:
    """What to raise before the time is over; None while another master may do it.

    A certificate is invalid only where a majority says so: one master's clock may be wrong, and
    then another will lead soon. Of anything else it is enough that every master was asked once.
    """
    refusals = _own_refusals(answers)
    invalid = [each for each in refusals if each[1].reason is Reason.CERTIFICATE_INVALID]
    if 2 * len(invalid) > len(known):
        return _told(invalid)
    others = [each for each in refusals if each not in invalid]
    return _told(others) if others and known <= answers.keys() else None


def _told(said: Iterable[tuple[str, ClusterError]]) -> ClusterError:
    """The most useful of these, with who said it where it says how that master is."""
    said = list(said)
    error = most_useful(error for _, error in said)
    assert error is not None
    if not error.reason.has(Trait.OF_ONE_MASTER):
        return error
    address = next(address for address, each in said if each is error)
    return ClusterError(
        error.reason,
        f"{error.message} (said by {address})",
        metadata={**error.metadata, "master": address},
        retry_after=error.retry_after,
        violations=error.violations,
    )


def _last_said(
    before: tuple[Target, ClusterError] | None,
    target: Target,
    error: ClusterError,
    *,
    seconds: float,
) -> tuple[Target, ClusterError] | None:
    """Who last said why it can't, and what; None if that is over.

    It is over where a node names another, where who said it is gone, and where somebody was waited
    for. What had no time is no answer: the last attempt may begin right before the end.
    """
    if error.reason is Reason.NOT_LEADER:
        return None
    if not error.reason.has(Trait.SILENT):
        return target, error
    if error.reason is Reason.DEADLINE_EXCEEDED and seconds > HEARD_SECONDS:
        return None
    gone = before is not None and before[0] == target and error.reason is Reason.UNREACHABLE
    return None if gone else before


def new_request_id() -> str:
    """A request id that nobody else has."""
    return secrets.token_hex(12)


async def send_all(call: Any, requests: AsyncIterator[Any]) -> Any:
    """Write every request to a client-streaming call, and return its answer.

    Written here, not by gRPC from an iterator: it would hide what fails in the iterator, and could
    take half of it for the whole.

    Raises:
        ClusterError: What the call was answered with; UNREACHABLE if the connection broke.
        Exception: What `requests` raised; the call is cancelled then.
    """
    kept = KeptAnswer(call)
    try:
        try:
            async for request in requests:
                await call.write(request)
            await call.done_writing()
        except asyncio.InvalidStateError:
            pass  # It is over already; the call says why.
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(await kept.error(error)) from error
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        raise ClusterError(Reason.UNREACHABLE, "the connection broke") from error
    finally:
        call.cancel()
