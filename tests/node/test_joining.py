"""How long a join asks, waits and tries again, and what it leaves behind. Time is simulated."""

import json
import socket
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.adapters.keys.tokens import JoinSecret
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.store import stored_voter
from ipfs_cluster_node.cluster.members import APPROVAL_RETRY
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.codec.enums import ROLE
from ipfs_cluster_node.config.credentials import read_enrolment
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSection, load_settings
from ipfs_cluster_node.core.endpoints import parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.node import health_calls, joining
from ipfs_cluster_node.node.joining import (
    CLOCK_DIFFERENCE_MAX,
    DECIDED,
    ENROL_RETRY_SECONDS,
    ENROL_SECONDS_MAX,
    PORT_RETRY_SECONDS,
    RETRIED,
    Joining,
    join_cluster,
)
from ipfs_cluster_node.v1 import enrolment_pb2 as pb
from tests.support.dispatch import rpc_error
from tests.support.virtual_time import loop_clock, monotonic, now_ms, virtual_time

SECRET = JoinSecret("0" * 64, "0123456789abcdef", "1" * 32)
OTHER_TOKEN = JoinSecret("0" * 64, "fedcba9876543210", "1" * 32)
SETTINGS = NodeSection(name="n", role="worker", bind="127.0.0.1:0", enrolment_bind="127.0.0.1:0")
MASTER = NodeId("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
TOKEN_SECONDS = 60
Answer = Callable[[], ClusterError | None]


class Door:
    """A master's enrolment port: answers are what `answer` says, else a welcome."""

    def __init__(self, patch: pytest.MonkeyPatch, role: str = "worker") -> None:
        self.answer: Answer = lambda: None
        self.asked: list[tuple[float, pb.EnrolRequest]] = []
        self.role, self.clock_ms, self.open = role, 0, 0
        self.enrolment_endpoints: list[str] = []
        patch.setattr(joining, "EnrolmentServiceStub", lambda _channel: self)
        patch.setattr(joining, "open_channel", lambda *_, **__: self._channel())
        patch.setattr(joining, "fetch_trust_bundle", self._bundle)
        patch.setattr(health_calls, "was_removed", self._nobody)

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.asked]

    def _channel(self) -> Any:
        self.open += 1

        async def close() -> None:
            self.open -= 1

        return SimpleNamespace(close=close)

    async def _nobody(self, _home: Home) -> bool:
        return False

    async def _bundle(self, *_: Any, **_by_name: Any) -> bytes:
        return b"ca"

    async def Enrol(self, request: pb.EnrolRequest, timeout: float) -> pb.EnrolResponse:
        assert timeout == ENROL_SECONDS_MAX
        self.asked.append((monotonic(), request))
        error = self.answer()
        if error is not None:
            raise rpc_error(error)
        response = pb.EnrolResponse(
            certificate_pem="certificate",
            trust_bundle_pem="bundle",
            cluster_id="c",
            cluster_name="cluster",
            role=ROLE.numbers[self.role],
            incarnation=7,
            epoch=3,
            enrolment_endpoints=self.enrolment_endpoints,
        )
        response.masters.add(node_id=MASTER, endpoints=["127.0.0.1:9"])
        response.server_time.FromMilliseconds(now_ms() + self.clock_ms)
        response.token_expire_time.FromMilliseconds(now_ms() + self.clock_ms + 1000 * TOKEN_SECONDS)
        return response


async def join(home: Path, settings: NodeSection = SETTINGS, **given: Any) -> Any:
    token = str(given.pop("secret", SECRET))
    return await join_cluster(
        Home(home),
        settings,
        token=token,
        enrolment="127.0.0.1:9095",
        clock=loop_clock(),
        **given,
    )


async def refusal(home: Path, settings: NodeSection = SETTINGS, **given: Any) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        await join(home, settings, **given)
    return caught.value


def for_seconds(seconds: float, reason: Reason, **given: Any) -> Answer:
    until = monotonic() + seconds
    return lambda: ClusterError(reason, "not now", **given) if monotonic() < until else None


# In place of another node.


@virtual_time
async def test_no_node_is_removed_before_the_token_is_known_to_admit_this_one(
    tmp_path: Path,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        door = Door(patch, role="leecher")
        replaced: list[tuple[Role, int]] = []

        async def replace_node(role: Role) -> None:
            replaced.append((role, len(door.asked)))

        for reason in (*DECIDED, Reason.INVALID_ARGUMENT):
            door.answer = for_seconds(1e6, reason)
            assert (await refusal(tmp_path, replace_node=replace_node)).reason is reason
        assert replaced == []
        door.asked.clear()
        door.answer = lambda: None
        made = await join(tmp_path, replace_node=replace_node)
        assert replaced == [(Role.LEECHER, 1)]
        assert [request.check_only for _, request in door.asked] == [True, False]
        assert made.role is Role.LEECHER


# How long it asks.


@virtual_time
async def test_what_passes_is_asked_again_for_a_while(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for number, reason in enumerate(RETRIED):
            door = Door(patch)
            door.answer = for_seconds(ENROL_SECONDS_MAX - 1, reason)
            await join(tmp_path / str(number))
            assert door.times[1] - door.times[0] == pytest.approx(ENROL_RETRY_SECONDS, abs=1e-3)
            assert door.open == 0
            began = monotonic()
            door.answer = for_seconds(1e6, reason)
            assert (await refusal(tmp_path / f"{number}-not")).reason is reason
            assert ENROL_SECONDS_MAX < monotonic() - began < ENROL_SECONDS_MAX + 1
    assert {Reason.NO_LEADER, Reason.UNKNOWN_OUTCOME, Reason.CLOCK_OFF} <= set(RETRIED)
    assert {Reason.DEADLINE_EXCEEDED, Reason.SHUTTING_DOWN} <= set(RETRIED)


@virtual_time
async def test_what_does_not_pass_is_told_at_once(tmp_path: Path) -> None:
    """Nobody at the address, too: it may be the wrong one."""
    with pytest.MonkeyPatch.context() as patch:
        door = Door(patch)
        for reason in (Reason.UNREACHABLE, Reason.INVALID_ARGUMENT, *sorted(DECIDED)):
            door.answer = for_seconds(1, reason)
            assert (await refusal(tmp_path / "n")).reason is reason
        assert len(door.asked) == 2 + len(DECIDED)
        assert not (tmp_path / "n").exists()


@virtual_time
async def test_who_needs_approval_is_told_once_and_waits_as_long_as_the_master_says_so(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        door = Door(patch)
        door.answer = for_seconds(600, Reason.APPROVAL_PENDING)
        made = await join(tmp_path / "n", on_waiting=told.append)
        assert told == [made.node_id]
        assert door.times[1] - door.times[0] == pytest.approx(
            APPROVAL_RETRY.total_seconds(), abs=1e-3
        )
        door.answer = for_seconds(30, Reason.APPROVAL_PENDING, retry_after=timedelta(seconds=7))
        door.asked.clear()
        await join(tmp_path / "m")
        assert door.times[1] - door.times[0] == pytest.approx(7.0, abs=1e-3)


@virtual_time
@pytest.mark.parametrize("reason", [Reason.APPROVAL_PENDING, Reason.OVERLOADED])
async def test_while_it_waits_a_master_may_be_away_for_a_while(
    tmp_path: Path, reason: Reason
) -> None:
    """It restarts, perhaps; each answer gives it the whole time again."""
    with pytest.MonkeyPatch.context() as patch:
        door = Door(patch)
        began = monotonic()

        def now_and_then(away_seconds: float) -> Answer:
            def answer() -> ClusterError | None:
                since = monotonic() - began
                if since > 100:
                    return None
                is_away = since % 25 < away_seconds and since >= 25
                return ClusterError(Reason.UNREACHABLE if is_away else reason, "not now")

            return answer

        door.answer = now_and_then(ENROL_SECONDS_MAX - 3)
        await join(tmp_path / "n")
        assert monotonic() - began > 100
        began = monotonic()
        door.answer = now_and_then(ENROL_SECONDS_MAX + 3)
        error = await refusal(tmp_path / "m")
        assert error.reason is Reason.UNREACHABLE
        assert ENROL_SECONDS_MAX < monotonic() - began < 100


@virtual_time
async def test_a_port_that_is_asked_by_too_many_is_waited_for_and_that_is_told_once(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        door = Door(patch)
        began = monotonic()

        def overloaded_twice() -> ClusterError | None:
            calm = 50 < monotonic() - began < 50.5 or monotonic() - began > 100
            again = timedelta(seconds=4)
            return None if calm else ClusterError(Reason.OVERLOADED, "many", retry_after=again)

        door.answer = overloaded_twice
        with socket.create_server(("127.0.0.1", 0)):
            await join(tmp_path / "n", on_busy=told.append)
        assert told == ["127.0.0.1:9095 is busy"]
        assert door.times[1] - door.times[0] == pytest.approx(4.0, abs=1e-3)
        patch.setattr(joining, "WAIT_SECONDS_MAX", 200.0)
        door.answer = for_seconds(1e6, Reason.OVERLOADED)
        began = monotonic()
        assert (await refusal(tmp_path / "m")).reason is Reason.OVERLOADED
        assert 200 <= monotonic() - began < 201


# What it looks for before the token is used.


@virtual_time
@pytest.mark.parametrize("clock_ms", [0, -240_000, 240_000])
async def test_a_port_in_use_is_waited_for_until_the_token_ends_by_the_clusters_clock(
    tmp_path: Path, clock_ms: int
) -> None:
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as taken:
        door = Door(patch)
        door.clock_ms = clock_ms
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = monotonic()
        error = await refusal(tmp_path / "n", replace(SETTINGS, bind=address), on_busy=told.append)
        assert error.reason is Reason.PORT_IN_USE
        assert "--bind" in error.message
        assert TOKEN_SECONDS < monotonic() - began <= TOKEN_SECONDS + 2 * PORT_RETRY_SECONDS
        assert told == [f"something listens on {address} already, see --bind"]
        assert [request.check_only for _, request in door.asked] == [True]
        # Nobody listens here where the node will run elsewhere.
        made = await join(tmp_path / "n", replace(SETTINGS, bind=address), check_ports=False)
        assert made.role == "worker"
        assert [request.check_only for _, request in door.asked] == [True, True, False]


@virtual_time
async def test_only_a_master_waits_for_the_enrolment_port(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = replace(SETTINGS, enrolment_bind=address)
        Door(patch)
        await join(tmp_path / "n", settings, on_busy=told.append)
        assert told == []
        Door(patch, role="master")
        error = await refusal(tmp_path / "m", settings, on_busy=told.append)
        assert error.reason is Reason.PORT_IN_USE
        assert "--enrolment-bind" in error.message
        assert len(told) == 1


def test_a_port_is_free_though_old_connections_to_it_are_left() -> None:
    """As the servers take it: with SO_REUSEADDR."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        served, _ = listener.accept()
        endpoint = parse_endpoint(f"127.0.0.1:{port}")
        assert joining._why_not(endpoint) is not None
        served.close()  # It ends first: its side waits for a minute.
        client.close()
    assert joining._why_not(endpoint) is None


@virtual_time
@pytest.mark.parametrize("sign", [1, -1])
async def test_a_clock_by_which_no_certificate_would_hold_is_refused_and_no_token_used(
    tmp_path: Path, sign: int
) -> None:
    limit_ms = round(CLOCK_DIFFERENCE_MAX.total_seconds() * 1000)
    with pytest.MonkeyPatch.context() as patch:
        door = Door(patch)
        door.clock_ms = -sign * (limit_ms + 1000)
        error = await refusal(tmp_path / "n")
        assert error.reason is Reason.CONFIG_INVALID
        assert ("behind", "ahead of")[sign > 0] in error.message
        assert [request.check_only for _, request in door.asked] == [True]
        door.clock_ms = -sign * (limit_ms - 1000)
        await join(tmp_path / "n")


# What it leaves.


@virtual_time
async def test_a_refusal_for_good_leaves_nothing_and_any_other_the_same_identity(
    tmp_path: Path,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        door = Door(patch)
        home = Home(tmp_path)
        for reason in (*sorted(DECIDED), Reason.INTERNAL):
            door.asked.clear()
            # The check passes, and then it is refused.
            door.answer = lambda reason=reason: (  # type: ignore[misc]
                ClusterError(reason, "no") if len(door.asked) > 1 else None
            )
            assert (await refusal(home.path)).reason is reason
            assert home.begun.exists() == (reason is Reason.INTERNAL)
            assert not home.is_taken
        begun = json.loads(home.begun.read_bytes())
        door.answer = lambda: None
        door.asked.clear()
        await join(home.path)
        assert {request.request_id for _, request in door.asked} == {begun["request_id"]}
        assert not home.begun.exists()
    assert Reason.JOIN_REJECTED in DECIDED


def test_a_join_is_gone_on_with_by_the_same_token_name_and_addresses_only(tmp_path: Path) -> None:
    home = Home(tmp_path)

    def found(secret: JoinSecret, settings: NodeSection) -> Joining:
        return Joining.found_or_new(home, secret.token_id, settings)

    begun = found(SECRET, SETTINGS)
    assert found(SECRET, SETTINGS) != begun  # Nothing is written down yet.
    home.begun.write_text(json.dumps(asdict(begun)))
    assert found(SECRET, SETTINGS) == begun
    assert found(OTHER_TOKEN, SETTINGS).identity != begun.identity
    for other in (replace(SETTINGS, name="m"), replace(SETTINGS, bind="127.0.0.1:7")):
        with pytest.raises(ClusterError, match=r"a join as n at .* was begun"):
            found(SECRET, other)
    for damaged in ("", "{", "[]", "{}", '{"name": 1}', "\udcff"):
        home.begun.write_bytes(damaged.encode("utf-8", "surrogateescape"))
        assert found(SECRET, SETTINGS).identity != begun.identity


@virtual_time
@pytest.mark.parametrize("role", ["master", "worker", "leecher"])
async def test_a_member_has_all_that_its_role_needs(tmp_path: Path, role: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        door = Door(patch, role=role)
        home = Home(tmp_path)
        made = await join(home.path)
        assert load_settings(home.config, environment={}).node.role == role
        assert PeerBook(home.masters).targets() == [("127.0.0.1:9", MASTER)]
        assert read_enrolment(home.enrolment) == ("127.0.0.1:9095",)
        is_master = role == "master"
        assert home.seal_key.exists() == is_master
        voter = stored_voter(DirectoryDisk(home.raft)) if is_master else None
        assert voter == (f"{made.node_id}.7" if is_master else None)
        with pytest.raises(ClusterError) as caught:
            await join(home.path, secret=OTHER_TOKEN)
        assert caught.value.reason is Reason.HOME_EXISTS
        assert len(door.asked) == 2
        door.enrolment_endpoints = ["h:1", "h:2"]
        other = Home(tmp_path / "other")
        await join(other.path)
        assert read_enrolment(other.enrolment) == ("h:1", "h:2")


@virtual_time
@pytest.mark.parametrize("stopped_in", ["write_keys", "create_store", "save_masters"])
async def test_there_is_a_node_only_once_all_of_it_is_written(
    tmp_path: Path, stopped_in: str
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    home = Home(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        Door(patch, role="master")
        patch.setattr(joining, stopped_in, stop)
        with pytest.raises(KeyboardInterrupt):
            await join(home.path)
    assert not home.is_taken
    with pytest.raises(ClusterError, match="did not finish; run it again"):
        home.check()


@virtual_time
async def test_an_address_that_is_not_of_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        door = Door(patch)
        elsewhere = replace(SETTINGS, bind="192.0.2.1:9", advertise=("192.0.2.1:9",))
        began = monotonic()
        error = await refusal(tmp_path / "n", elsewhere)
        assert error.reason is Reason.CONFIG_INVALID
        assert "choose another with --bind" in error.message
        assert monotonic() - began < 1
        assert [request.check_only for _, request in door.asked] == [True]
