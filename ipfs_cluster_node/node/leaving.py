"""A node leaves its cluster, at the request of `leave` or since it was removed, and ends.

`leave` asks the node that runs through files in its home. Whoever may write there may read the
node's keys: that is the authority to call `LeaveCluster` in its name, and no other is needed.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Final

from ipfs_cluster_node.access.identify import REMOVED_KEY
from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.client.connection import Connection, new_request_id
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.config.files import read_regular, write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.errors import ClusterError, Reason, Trait
from ipfs_cluster_node.node.files import load_files
from ipfs_cluster_node.node.health_calls import removed_by_most
from ipfs_cluster_node.worker.v1 import node_pb2 as pb

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.25
"""How often the node looks for a request, and the command for its answer."""
LEAVE_SECONDS_MAX: Final = 30.0
"""For the leader's answer, elections included."""
TAKEN_SECONDS_MAX: Final = 10.0
"""In which a node that runs takes the request."""
OTHERWISE_SECONDS_MAX: Final = 4 * LEAVE_SECONDS_MAX
"""For all of leaving but the time in which attempts may end."""
REMOVED_SECONDS_MIN: Final = 5.0
"""How long every heartbeat is refused as a removed node's before the masters are asked."""
ASK_REMOVED_SECONDS: Final = 5.0
"""Between two times that all masters are asked whether this node was removed."""
SURE_SECONDS_MAX: Final = 10.0
"""In which the other masters learn of a removal that the leader has committed."""


@dataclass(frozen=True, slots=True)
class LeaveRequest:
    """What `leave` asks of the node that runs here."""

    request_id: str
    lose_files: bool


def left_cluster() -> ClusterError:
    """The error that ends a removed node."""
    return ClusterError(
        Reason.REMOVED_FROM_CLUSTER,
        "this node left its cluster, or was removed from it, for good; join as a new one with "
        "`join --replace`, or with another --home",
    )


async def ask_to_leave(
    connection: Connection, request: LeaveRequest, *, check_only: bool = False
) -> None:
    """Have the leader remove the node of this connection's certificate.

    Raises:
        ClusterError: With `REMOVED_KEY`, if one master says that it was removed already.
    """
    await connection.unary(
        pb.LeaveClusterRequest(
            request_id=request.request_id, lose_files=request.lose_files, check_only=check_only
        ),
        timeout=LEAVE_SECONDS_MAX,
        attempt_timeout=LEAVE_SECONDS_MAX,
    )


class Leaving:
    """In a node that runs: takes the request of `leave`, and notices that it was removed."""

    def __init__(
        self,
        home: Home,
        *,
        connection: Connection,
        was_refused: Callable[[], bool],
        is_removed: Callable[[], Awaitable[bool]],
        drain: Callable[[], Awaitable[None]],
        stay: Callable[[], None],
        clock: Clock,
    ) -> None:
        """Take requests in `home`.

        `was_refused` says whether a master's last word was that this node was removed, `is_removed`
        asks all of them. `drain` returns the attempts, and `stay` accepts new ones again.
        """
        self._home, self._connection, self._clock = home, connection, clock
        self._was_refused, self._is_removed = was_refused, is_removed
        self._drain, self._stay = drain, stay

    async def run(self) -> None:
        """Until cancelled, or until this node is removed.

        Raises:
            ClusterError: REMOVED_FROM_CLUSTER.
        """
        for stale in (self._home.leaving, self._home.leave_answer):
            stale.unlink(missing_ok=True)  # Of a former process: `leave` asks again.
        refused_since, asked_at = None, 0.0
        while True:
            await asyncio.sleep(POLL_SECONDS)
            request = self._take()
            if request is not None:
                await self._leave(request)
            now = self._clock.monotonic()
            if not self._was_refused():
                refused_since = None
                continue
            refused_since = now if refused_since is None else refused_since
            due = max(refused_since + REMOVED_SECONDS_MIN, asked_at + ASK_REMOVED_SECONDS)
            if now >= due:
                asked_at = now
                if await self._is_removed():
                    self._end()

    def _take(self) -> LeaveRequest | None:
        taken = self._home.leaving.with_suffix(".taken")
        try:
            self._home.leaving.rename(taken)  # The command takes it back in one step too.
            text = read_regular(taken)
        except FileNotFoundError:
            return None
        taken.unlink()
        try:
            return LeaveRequest(**json.loads(text))
        except (ValueError, TypeError) as error:
            log.warning("request to leave is unreadable", extra={"error": repr(error)})
            return None

    async def _leave(self, request: LeaveRequest) -> None:
        log.warning("leaves its cluster")
        try:
            await ask_to_leave(self._connection, request, check_only=True)
            await self._drain()
            await ask_to_leave(self._connection, request)
        except ClusterError as error:
            if REMOVED_KEY not in error.metadata or not await self._is_surely_removed():
                log.warning("does not leave", extra={"error": error.message})
                self._stay()
                self._answer(request, {"reason": error.reason.value, "message": str(error)})
                return
        self._answer(request, {})
        self._end()

    async def _is_surely_removed(self) -> bool:
        until = self._clock.monotonic() + SURE_SECONDS_MAX
        while not await self._is_removed():
            if self._clock.monotonic() > until:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True

    def _answer(self, request: LeaveRequest, error: dict[str, str]) -> None:
        if not error:
            mark_left(self._home)
        document = {"request_id": request.request_id, "error": error}
        write_private(self._home.leave_answer, json.dumps(document).encode())

    def _end(self) -> None:
        mark_left(self._home)
        raise left_cluster()


def mark_left(home: Home) -> None:
    """Note that this node was removed: it does not start again."""
    if not home.left.exists():
        write_private(home.left, b"{}")


def check_not_left(home: Home) -> None:
    """Raise REMOVED_FROM_CLUSTER for a node that is known to be removed."""
    if home.left.exists():
        raise left_cluster()


# The command's side.


async def leave(home: Home, *, lose_files: bool, drain_seconds: float) -> None:
    """Have the node in `home` leave its cluster; returns once it is removed, and has stopped.

    A node that runs does it itself, and first lets attempts end for up to `drain_seconds`; for one
    that does not, this process does. Safe to repeat, also after either was killed.

    Raises:
        ClusterError: Why it was not removed: it is a member as before. UNKNOWN_OUTCOME,
            DEADLINE_EXCEEDED, if that is not known.
    """
    home.check()
    request, asked = LeaveRequest(new_request_id(), lose_files), False
    now = asyncio.get_running_loop().time
    taken_by = now() + TAKEN_SECONDS_MAX
    done_by = taken_by + drain_seconds + OTHERWISE_SECONDS_MAX
    while True:
        try:
            with home.lock():
                home.leaving.unlink(missing_ok=True)
                if not home.left.exists():
                    await _leave_stopped(home, request)
                home.leave_answer.unlink(missing_ok=True)
                return
        except ClusterError as error:
            if error.reason is not Reason.HOME_IN_USE:
                raise
            busy = error
        if not asked:
            write_private(home.leaving, json.dumps(asdict(request)).encode())
            asked = True
        refusal = _refusal_of(home, request)
        if refusal is not None:
            home.leave_answer.unlink(missing_ok=True)
            raise refusal
        if now() > taken_by and _took_back(home):
            raise busy
        if now() > done_by:
            raise ClusterError(
                Reason.DEADLINE_EXCEEDED,
                "the node is still leaving; see its log, and run `leave` again to wait for it",
            )
        await asyncio.sleep(POLL_SECONDS)


def _took_back(home: Home) -> bool:
    """Take back the request; False if the node has it."""
    try:
        home.leaving.unlink()
    except FileNotFoundError:
        return False
    return True


def _refusal_of(home: Home, request: LeaveRequest) -> ClusterError | None:
    try:
        answer = json.loads(read_regular(home.leave_answer))
        if answer["request_id"] != request.request_id or not answer["error"]:
            return None
        return ClusterError(Reason(answer["error"]["reason"]), answer["error"]["message"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


async def _leave_stopped(home: Home, request: LeaveRequest) -> None:
    """Have the leader remove a node that does not run."""
    files, targets = load_files(home), PeerBook(home.masters).targets()
    own = files.identity.node_id
    others = [target for target in targets if target[1] != own]
    if not others:
        raise ClusterError(
            Reason.QUORUM_AT_RISK,
            "it is the only master that it knows; the cluster would end with it",
        )
    connection = Connection(others, files.tls)
    try:
        await ask_to_leave(connection, request)
    except ClusterError as error:
        if error.reason.has(Trait.NO_ANSWER) or error.reason is Reason.NO_LEADER:
            raise ClusterError(
                error.reason,
                f"{error}; the node is still a member. If the others have no majority without it, "
                "start it, and run `leave` then",
            ) from error
        if REMOVED_KEY not in error.metadata:
            raise
        if not await removed_by_most(others, own, files.tls):
            raise ClusterError(
                Reason.UNKNOWN_OUTCOME,
                f"a master says that it was removed, and most others do not: {error.message}; run "
                "`leave` again once they run",
            ) from error
    finally:
        await connection.close()
    mark_left(home)
