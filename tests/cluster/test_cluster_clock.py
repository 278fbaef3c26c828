"""A node's clock compared with the others': what it signs, dates and reports. Time is simulated."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from ipfs_cluster_node.access.authorizer import Authorizer
from ipfs_cluster_node.adapters.keys.certificates import (
    ROOT_BACKDATE,
    CertificateAuthority,
)
from ipfs_cluster_node.cluster.certificates.issuing import HAND_OVER_SECONDS, Certificates
from ipfs_cluster_node.cluster.cluster_clock import SAMPLE_SECONDS, ClusterClock
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.core.certificates import Authority
from ipfs_cluster_node.core.clocks import SETTLE_MS, START_MS, START_SETTLE_MS, Verdict
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did, NodeId, VoterId, voter_id
from ipfs_cluster_node.node.own_certificate import RENEWED_SHARE_MIN, OwnCertificate
from tests.support.tls import enrol, make_ca, own_certificate
from tests.support.virtual_time import (
    BEGIN_MS,
    loop_clock,
    monotonic,
    utc_now,
    virtual_loop,
    virtual_time,
)

OWN, ONE, TWO = (NodeId(f"n{number}") for number in range(3))
DAY = 86_400.0


class Wall:
    """A wall clock that can be set, apart from virtual time."""

    def __init__(self) -> None:
        self._loop = virtual_loop()

    @property
    def ahead(self) -> float:
        return self._loop.ahead_seconds

    @ahead.setter
    def ahead(self, seconds: float) -> None:
        self._loop.ahead_seconds = seconds

    def true_ms(self) -> int:
        return BEGIN_MS + int(virtual_loop().time() * 1000)

    def told(self, ahead: float = 0.0) -> Timestamp:
        time = Timestamp()
        time.FromMilliseconds(self.true_ms() + int(ahead * 1000))
        return time


def heard(own: ClusterClock, wall: Wall, **ahead: float) -> None:
    """Compare with others, each ahead of the true time by this much."""
    now = virtual_loop().time()
    for node, seconds in ahead.items():
        own.take(NodeId(node), wall.told(seconds), now, now)


def voting(*others: NodeId) -> ClusterClock:
    return ClusterClock(OWN, voters=lambda: frozenset({OWN, *others}), own=loop_clock())


@virtual_time
async def test_a_jump_is_known_at_once_by_what_was_compared_before_it() -> None:
    """It must not depend on other nodes, whose certificates look expired by such a clock."""
    wall = Wall()
    own = voting(ONE, TWO)
    with pytest.raises(ClusterError) as caught:
        own.check()
    assert caught.value.reason is Reason.CLOCK_OFF
    assert caught.value.retry_after is not None
    own.check_alone()  # Nothing contradicts it.
    heard(own, wall, n1=0, n2=0)
    own.check()
    assert not own.health().degraded
    assert "2 other masters" in own.health().detail
    for ahead in (DAY, -DAY):
        wall.ahead = ahead
        for checked in (own.check, own.check_alone):
            with pytest.raises(ClusterError) as caught:
                checked()
            assert caught.value.reason is Reason.CLOCK_OFF
        health = own.health()
        assert (health.ok, health.degraded) == (True, True)
        assert f"{DAY:.0f} s {'ahead' if ahead > 0 else 'behind'}" in health.detail
        assert abs(own.now_ms() - wall.true_ms()) <= 1, "what it dates is of the cluster's time"
        assert abs(own.utc_now().timestamp() * 1000 - wall.true_ms()) <= 1
    wall.ahead = 0.0
    own.check()
    assert not own.health().degraded


@virtual_time
async def test_where_no_majority_says_who_is_right_nothing_is_signed_or_corrected() -> None:
    wall = Wall()
    own = voting(ONE)
    heard(own, wall, n1=DAY)
    with pytest.raises(ClusterError):
        own.check()
    with pytest.raises(ClusterError):
        own.check_alone()
    assert own.now_ms() == wall.true_ms()
    assert "no majority" in own.health().detail


@virtual_time
async def test_the_word_of_who_votes_no_more_does_not_count() -> None:
    wall = Wall()
    voters = {OWN, ONE, TWO}
    own = ClusterClock(OWN, voters=lambda: frozenset(voters), own=loop_clock())
    heard(own, wall, n1=0, n2=0)
    own.check()
    voters.discard(ONE)
    voters.add(NodeId("n3"))
    wall.ahead = DAY
    assert own.judge().verdict is Verdict.DISPUTED


@virtual_time
async def test_a_single_master_that_jumps_signs_again_after_an_hour_or_at_once_if_set_back() -> (
    None
):
    wall = Wall()
    own = voting()
    own.check()
    await asyncio.sleep(START_MS / 1000 + 1)
    wall.ahead = DAY
    with pytest.raises(ClusterError) as caught:
        own.check()
    assert "restart" in caught.value.message
    assert own.now_ms() == wall.true_ms() + DAY * 1000, "nobody knows better"
    await asyncio.sleep(60)
    wall.ahead = 0.0
    own.check()
    wall.ahead = DAY
    assert own.judge().verdict is Verdict.JUMPED
    await asyncio.sleep(SETTLE_MS / 1000 + 1)
    own.judge()
    own.check()


@virtual_time
async def test_a_single_master_whose_clock_is_set_right_just_after_its_start_signs_soon() -> None:
    wall = Wall()
    wall.ahead = DAY
    own = voting()
    own.check()
    await asyncio.sleep(60)
    wall.ahead = 0.0
    assert own.judge().verdict is Verdict.JUMPED
    await asyncio.sleep(START_SETTLE_MS / 1000 + 1)
    own.judge()
    own.check_alone()


@virtual_time
async def test_a_worker_goes_by_the_leader_of_now() -> None:
    wall = Wall()
    own = ClusterClock(OWN, own=loop_clock())
    assert own.judge().verdict is Verdict.UNKNOWN
    assert not own.health().degraded
    heard(own, wall, n1=0)
    assert own.judge().verdict is Verdict.TRUSTED
    heard(own, wall, n2=DAY)
    assert own.judge().verdict is Verdict.OFF
    assert own.now_ms() == wall.true_ms() + DAY * 1000


@virtual_time
async def test_a_node_does_not_compare_with_itself() -> None:
    wall = Wall()
    own = voting(ONE)
    heard(own, wall, n0=0)
    assert own.judge().verdict is Verdict.UNKNOWN


@virtual_time
async def test_a_master_compares_with_each_other_one_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall = Wall()
    asked: list[tuple[NodeId, float]] = []
    own = voting(ONE, TWO)

    async def sample(node_id: NodeId) -> bool:
        asked.append((node_id, virtual_loop().time()))
        if node_id == TWO and len(asked) < 4:
            return False
        heard(own, wall, **{node_id: 0})
        return True

    monkeypatch.setattr(own, "_sample", sample)
    running = asyncio.create_task(own.run())
    await asyncio.sleep(SAMPLE_SECONDS - 0.5)
    count = {node: sum(n == node for n, _ in asked) for node in (ONE, TWO)}
    assert count[ONE] == 1
    assert count[TWO] == 3, "who did not answer is asked again soon"
    assert "2 other" in own.health().detail
    await asyncio.sleep(SAMPLE_SECONDS)
    assert sum(n == ONE for n, _ in asked) == 2
    running.cancel()


# What is guarded by it.


class Replica:
    def __init__(self, fails: str = "") -> None:
        self.voters = frozenset(voter_id(node, 1) for node in (OWN, ONE, TWO))
        self.asked: list[VoterId] = []
        self.fails = fails

    async def transfer_leadership(self, voter: VoterId) -> None:
        self.asked.append(voter)
        if voter == self.fails:
            raise ClusterError(Reason.PEER_UNREACHABLE, "not there")


@virtual_time
async def test_a_leader_whose_clock_is_off_lets_one_lead_whose_clock_is_right() -> None:
    wall = Wall()
    own = ClusterClock(
        OWN, voters=lambda: frozenset({OWN, ONE, TWO, NodeId("n3")}), own=loop_clock()
    )
    replica = Replica()
    consensus: Any = SimpleNamespace(replica=replica, is_leader=True)
    certificates = Certificates(consensus, Any, own, Observations(monotonic))  # type: ignore[arg-type]
    heard(own, wall, n1=0, n2=0, n3=0)
    await certificates._hand_over_if_off()
    assert replica.asked == []
    wall.ahead = DAY
    replica.fails = voter_id(ONE, 1)
    await certificates._hand_over_if_off()
    assert replica.asked == [voter_id(ONE, 1), voter_id(TWO, 1)]
    await certificates._hand_over_if_off()
    assert len(replica.asked) == 2, "not again at once"
    await asyncio.sleep(HAND_OVER_SECONDS)
    consensus.is_leader = False
    await certificates._hand_over_if_off()
    assert len(replica.asked) == 3, "done with the first that leads"


@virtual_time
async def test_a_leader_whose_clock_is_off_signs_no_certificate_and_makes_no_root() -> None:
    wall = Wall()
    own = voting(ONE, TWO)
    heard(own, wall, n1=0, n2=0)
    ca = make_ca()
    keys = SimpleNamespace(cas=(ca,), authority=None)
    authority: Any = SimpleNamespace(signer=0)
    certificates = Certificates(Any, Any, own, Observations(monotonic))  # type: ignore[arg-type]
    assert certificates._signer(authority, keys) is ca  # type: ignore[arg-type]
    wall.ahead = -DAY
    for signs in (lambda: certificates._signer(authority, keys), certificates.check_clock):  # type: ignore[arg-type]
        with pytest.raises(ClusterError) as caught:
            signs()
        assert caught.value.reason is Reason.CLOCK_OFF
    state = SimpleNamespace(
        certificates=SimpleNamespace(authority=Authority(version=1, key_id="k")),
        answer_to=lambda *_: None,
    )
    consensus: Any = SimpleNamespace(leader_state=lambda: state)
    opens: Any = SimpleNamespace(keys=lambda _authority: keys, changing=asyncio.Lock())
    with pytest.raises(ClusterError) as caught:
        await Certificates(consensus, opens, own, Observations(monotonic)).rotate(
            new=True, proceed=False, caller=Did("did:key:zOperator"), request_id="r"
        )
    assert caught.value.reason is Reason.CLOCK_OFF


def test_a_root_begins_long_before_it_is_made() -> None:
    """A root from a clock that is ahead would invalidate whatever it signs."""
    ahead = utc_now() + timedelta(days=300)
    ca = CertificateAuthority.create("test", ahead)
    assert ca.certificate.not_valid_before_utc < utc_now()
    assert timedelta(days=300) < ROOT_BACKDATE


@contextmanager
def renewing(
    path: Path, wall: Wall, *, began_in: float = 0.0
) -> Iterator[tuple[OwnCertificate, list[float]]]:
    """A node's own certificate of a day, and when it is renewed."""
    own = own_certificate(enrol(make_ca()), path)
    renewed: list[float] = []

    def begin(seconds: float) -> None:
        own._not_before = own.now() + timedelta(seconds=seconds)
        own._not_after = own._not_before + timedelta(days=1)
        own._renew_at = own._not_before + timedelta(hours=12)

    async def renew() -> bool:
        renewed.append(virtual_loop().time())
        begin(-wall.ahead)  # By the leader's clock, which is right.
        return False

    begin(began_in)
    own.renew = renew  # type: ignore[method-assign]
    yield own, renewed


def watch(began_in: float, ahead: float, seconds: float, expected: int, tmp_path: Path) -> None:
    @virtual_time
    async def run() -> None:
        wall = Wall()
        with renewing(tmp_path, wall, began_in=began_in) as (own, renewed):
            running = asyncio.create_task(own.run())
            await asyncio.sleep(2)
            wall.ahead = ahead
            await asyncio.sleep(seconds)
            running.cancel()
            assert len(renewed) == expected, renewed

    run()


@pytest.mark.parametrize("began_in", [-1.5 * DAY, DAY])
def test_a_certificate_that_has_ended_or_not_begun_is_renewed(
    began_in: float, tmp_path: Path
) -> None:
    """A certificate from tomorrow was used until tomorrow: every node refused this one."""
    watch(began_in, 0.0, 3600, 1, tmp_path)


def test_a_clock_far_ahead_does_not_use_up_what_a_member_may_hold(tmp_path: Path) -> None:
    """To such a clock new certificates look old: two renewals a second, up to 64 a day."""
    hours = 6
    tenths = int(hours * 3600 / (RENEWED_SHARE_MIN * DAY))
    watch(0.0, 0.9 * DAY, hours * 3600, tenths + 1, tmp_path)


@virtual_time
async def test_a_clock_that_is_set_right_does_not_wait_for_the_next_attempt() -> None:
    wall = Wall()
    with renewing(Path("/nowhere"), wall, began_in=DAY) as (own, renewed):
        works = own.renew

        async def fails() -> bool:
            raise ClusterError(Reason.UNREACHABLE, "their certificates look expired")

        own.renew = fails  # type: ignore[method-assign]
        wall.ahead = -DAY
        running = asyncio.create_task(own.run())
        await asyncio.sleep(4 * 3600)
        own.renew = works  # type: ignore[method-assign]
        wall.ahead = 0.0
        await asyncio.sleep(1.1)
        assert len(renewed) == 1
        running.cancel()


def test_health_says_that_a_certificate_has_not_begun(tmp_path: Path) -> None:
    own = own_certificate(enrol(make_ca()), tmp_path)
    assert own.check().ok
    early = own.check(own._not_before - timedelta(seconds=1))
    assert not early.ok
    assert "begins" in early.detail
    assert not own.check(own._not_after + timedelta(seconds=1)).ok


@virtual_time
async def test_a_clock_that_was_ahead_at_the_start_refuses_no_calls_once_it_is_right() -> None:
    """Signed calls from before the start are refused: it would be tomorrow's start, for a day."""
    wall = Wall()
    wall.ahead = DAY
    own = voting(ONE, TWO)
    nobody: Any = None
    no_log = Consensus(OWN, peers=nobody, now_ms=own.now_ms)
    authorizer = Authorizer(node_id=OWN, holder=no_log, now_ms=own.now_ms, clock=own.own)
    await asyncio.sleep(30)
    heard(own, wall, n1=0, n2=0)
    state: Any = SimpleNamespace(cluster_did="did:key:zCluster")
    since_s = authorizer.validator(state)._used._since_s
    assert since_s == BEGIN_MS // 1000
    assert authorizer.now_s() == wall.true_ms() // 1000
