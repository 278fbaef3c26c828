"""This node's clock compared with the others': what it may sign, and what health reports."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.core.clocks import (
    CLOCK_DIFFERENCE_MS_MAX,
    ClockSample,
    Judgement,
    SteadyClock,
    Verdict,
    judge_clock,
    sample_of,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.v1 import health_pb2
from ipfs_cluster_node.v1.health_pb2_grpc import HealthServiceStub

log = logging.getLogger(__name__)

SAMPLE_SECONDS: Final = 10.0
"""Pause between two comparisons with another master."""
RETRY_SECONDS: Final = 1.0
"""Pause after a comparison that failed: all should be compared before a clock jumps."""
HURRY_SECONDS: Final = 0.5
"""How often a master checks for new voters to compare with."""
SAMPLE_SECONDS_MAX: Final = 2.0
"""How long one answer may take: half of that is the comparison's error."""
VERDICT_MS_MAX: Final = 1000.0
"""How long a verdict is cached, and how far the wall clock may move meanwhile."""
RETRY_AFTER: Final = timedelta(seconds=1)
UNKNOWN_SECONDS_MAX: Final = 60.0
"""How long a master may have compared its clock with too few before health reports it."""


class ClusterClock:
    """The wall clock and a verdict on it. Runs in the event loop's thread."""

    def __init__(
        self,
        node_id: NodeId,
        *,
        own: Clock,
        voters: Callable[[], frozenset[NodeId]] = frozenset,
        channel_to: Callable[[NodeId], grpc.aio.Channel | None] = lambda _node_id: None,
    ) -> None:
        """Compare with the others of `voters`; a node that never votes, with the leader alone."""
        self._node_id = node_id
        self.own = own
        """This node's clock as it is."""
        self._wall_ms, self._boottime = own.wall_ms, own.boottime
        self._voters = voters
        self._channel_to = channel_to
        self._samples: dict[NodeId, ClockSample] = {}
        wall, boottime = self._read()
        self._steady = SteadyClock(wall - boottime, started_ms=boottime)
        self._unknown_since = boottime
        self._judged = Judgement(Verdict.UNKNOWN)
        self._judged_at, self._judged_offset = float("-inf"), 0.0
        self._wrong_by_ms = 0
        """The error that `now_ms` corrects."""

    def judge(self) -> Judgement:
        """What is known of this clock now."""
        wall, boottime = self._read()
        if not self._is_judged(wall, boottime):
            self._renew_judgement(wall - boottime, boottime)
        return self._judged

    def _is_judged(self, wall: float, boottime: float) -> bool:
        """Whether the last verdict is still current: it is used for every call."""
        moved = wall - boottime - self._judged_offset
        return (
            boottime - self._judged_at < VERDICT_MS_MAX and -VERDICT_MS_MAX < moved < VERDICT_MS_MAX
        )

    def _renew_judgement(self, offset: float, boottime: float) -> None:
        self._steady = self._steady.seen(offset, boottime)
        judged = self._judge(offset, boottime)
        if judged.verdict is not Verdict.UNKNOWN:
            self._unknown_since = boottime
        if judged.verdict is not self._judged.verdict:
            facts = {"verdict": judged.verdict.value, "ahead_seconds": judged.ahead_ms / 1000}
            level = logging.INFO if _is_well(judged) else logging.WARNING
            log.log(level, "clock judged", extra=facts)
        self._judged, self._judged_at, self._judged_offset = judged, boottime, offset
        self._wrong_by_ms = int(judged.ahead_ms) if judged.verdict is Verdict.OFF else 0

    def now_ms(self) -> int:
        """The cluster's time in milliseconds since 1970 (UTC).

        This node's own time, unless a majority of the voters shows that it is off.
        """
        wall, boottime = self._wall_ms(), self._boottime() * 1000
        if not self._is_judged(wall, boottime):
            self._renew_judgement(wall - boottime, boottime)
        return wall - self._wrong_by_ms

    def utc_now(self) -> datetime:
        """The cluster's time, as `now_ms`."""
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC)

    def check(self) -> None:
        """Check that this clock may date signatures; raises CLOCK_OFF."""
        if self.judge().verdict is not Verdict.TRUSTED:
            raise ClusterError(
                Reason.CLOCK_OFF, f"{self._detail()}; it signs nothing", retry_after=RETRY_AFTER
            )

    def check_alone(self) -> None:
        """Check that there is no evidence against this clock, if no other can be compared.

        Raises:
            ClusterError: CLOCK_OFF.
        """
        if not _is_well(self.judge()):
            self.check()

    def health(self) -> health_pb2.HealthCheck:
        """The clock's health."""
        judged = self.judge()
        unknown_ms = self._boottime() * 1000 - self._unknown_since
        degraded = not _is_well(judged) or (
            judged.verdict is Verdict.UNKNOWN
            and self._node_id in self._voters()
            and unknown_ms > UNKNOWN_SECONDS_MAX * 1000
        )
        return health_pb2.HealthCheck(
            name="clock", ok=True, degraded=degraded, detail=self._detail()
        )

    def take(
        self, node_id: NodeId, time: Timestamp, sent_seconds: float, received_seconds: float
    ) -> None:
        """Record another node's wall clock, read between two times of the boottime clock here."""
        if node_id == self._node_id:
            return
        sample = sample_of(
            wall_ms=time.ToNanoseconds() / 1e6,
            sent_ms=sent_seconds * 1000,
            received_ms=received_seconds * 1000,
        )
        if self._node_id not in self._voters():
            self._samples.clear()  # Only the current leader's.
        self._samples[node_id] = sample
        self._judged_at = float("-inf")

    async def run(self) -> None:
        """On a master: compare with the other masters, until cancelled."""
        next_at: dict[NodeId, float] = {}
        while True:
            others = sorted(self._voters() - {self._node_id})
            due = [node_id for node_id in others if self._boottime() >= next_at.get(node_id, 0.0)]
            answered = await asyncio.gather(*map(self._sample, due))
            for node_id, answers in zip(due, answered, strict=True):
                next_at[node_id] = self._boottime() + (SAMPLE_SECONDS if answers else RETRY_SECONDS)
            await asyncio.sleep(HURRY_SECONDS)

    async def _sample(self, node_id: NodeId) -> bool:
        channel = self._channel_to(node_id)
        if channel is None:
            return False
        sent = self._boottime()
        try:
            answer = await HealthServiceStub(channel).GetHealth(
                health_pb2.GetHealthRequest(), timeout=SAMPLE_SECONDS_MAX
            )
        except grpc.aio.AioRpcError:
            return False  # Earlier comparisons stay valid.
        if answer.HasField("time"):
            self.take(node_id, answer.time, sent, self._boottime())
        return True

    def _read(self) -> tuple[float, float]:
        """The wall clock and the boottime clock, in milliseconds."""
        return float(self._wall_ms()), self._boottime() * 1000

    def _judge(self, offset: float, boottime: float) -> Judgement:
        voters = self._voters()
        votes = self._node_id in voters
        if votes and len(voters) == 1:
            return self._steady.judge()
        compared = self._samples.items()
        return judge_clock(
            offset,
            {n: sample for n, sample in compared if n in voters or not votes},
            voter_count=len(voters) if votes else 1,
            votes=votes,
            now_ms=boottime,
        )

    def _detail(self) -> str:
        judged = self.judge()
        seconds = abs(judged.ahead_ms) / 1000
        apart = f"{seconds:.0f} s {'ahead' if judged.ahead_ms > 0 else 'behind'}"
        way_out = "set it right, best by NTP; nothing has to be restarted"
        match judged.verdict:
            case Verdict.TRUSTED:
                return (
                    f"the clock agrees with those of {len(judged.agreeing)} other masters, within "
                    f"{CLOCK_DIFFERENCE_MS_MAX // 1000} s"
                    if judged.agreeing
                    else "the clock is steady; there is no other master to compare it with"
                )
            case Verdict.OFF:
                return f"the clock is {apart} by those of the masters; {way_out}"
            case Verdict.DISPUTED:
                return (
                    f"the clock is {apart} by another master's, and no majority of the masters "
                    f"settles it; set the wrong one right, best by NTP"
                )
            case Verdict.JUMPED:
                return (
                    f"the clock jumped to {apart} of where it was, and there is no other master "
                    f"to compare it with; {way_out}, or restart this node if it is right now"
                )
        return "the clock is not compared with those of enough masters yet"


def _is_well(judged: Judgement) -> bool:
    return judged.verdict in (Verdict.TRUSTED, Verdict.UNKNOWN)
