"""What a node may answer: from its log, as the confirmed leader, or not at all."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.access import context
from ipfs_cluster_node.cluster.consensus import LEADER_RETRY_AFTER, Consensus
from ipfs_cluster_node.codec.commands import decode_command
from ipfs_cluster_node.core.commands import ExpireRecords
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.errors import ClusterError, Leader, Reason
from ipfs_cluster_node.core.ids import NodeId, VoterId
from tests.support.virtual_time import BEGIN_MS, now_ms, virtual_time

HERE, OTHER = NodeId("here"), NodeId("other")


class FakeReplica:
    """A replica whose properties the test sets."""

    def __init__(self) -> None:
        self.leader: NodeId | None = OTHER
        self.is_leader = self.leads_for_sure = False
        self.applied_index, self.term, self.age_ms = 17, 4, 1234
        self.voters = frozenset({VoterId("here.1"), VoterId("other.3")})
        self.failed: ClusterError | None = None
        self.outcome: object = Accepted(ids=("a", "b"))
        self.proposed: list[bytes] = []

    def position(self) -> str:
        return "position"

    async def propose(self, command: bytes) -> object:
        self.proposed.append(command)
        if isinstance(self.outcome, ClusterError):
            raise self.outcome
        return self.outcome


class FakeMachine:
    def __init__(self) -> None:
        self.state = SimpleNamespace(cluster_id="cluster")

    def freeze(self) -> str:
        return "frozen"


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = SimpleNamespace(stale=False, age_ms=None)
    monkeypatch.setattr("ipfs_cluster_node.cluster.consensus.current_reading", lambda: made)
    assert callable(context.current_reading)
    return made


@pytest.fixture
def replica() -> FakeReplica:
    return FakeReplica()


def of(replica: FakeReplica | None, machine: Any = None, *, leader: NodeId | None = None) -> Any:
    peers: Any = SimpleNamespace(
        leader=leader, endpoints=lambda node_id: ("h:1", "h:2") if node_id == OTHER else ()
    )
    consensus = Consensus(HERE, peers=peers, now_ms=now_ms)
    if replica is not None:
        as_replica: Any = replica
        consensus.use_log(machine, as_replica)
    return consensus


def refused(call: Any) -> ClusterError:
    with pytest.raises(ClusterError) as raised:
        call()
    return raised.value


def test_a_master_tells_what_its_replica_knows(replica: FakeReplica) -> None:
    consensus = of(replica, FakeMachine(), leader=NodeId("heard of"))
    assert consensus.leader == OTHER
    assert not consensus.is_leader
    assert consensus.applied_index == 17
    assert consensus.term == 4
    assert consensus.voters == {"here", "other"}
    replica.is_leader = True
    assert consensus.is_leader


def test_a_node_without_a_log_knows_the_leader_from_its_peers() -> None:
    consensus = of(None, leader=OTHER)
    assert consensus.leader == OTHER
    assert not consensus.is_leader
    assert consensus.applied_index == 0
    assert consensus.term == 0
    assert consensus.voters == frozenset()


def test_nobody_is_known_only_where_neither_log_nor_peers_name_another_master(
    replica: FakeReplica,
) -> None:
    """Only then is the operator asked to name one; a worker, or an intact log, needs none."""

    def knows_nobody(*, state: bool, peer: bool, voters: tuple[str, ...], log: bool = True) -> Any:
        machine = FakeMachine()
        machine.state.cluster_id = "cluster" if state else ""
        replica.voters = frozenset(map(VoterId, voters))
        consensus = of(replica if log else None, machine)
        consensus._peers.knows_other = lambda node_id: peer and node_id == HERE
        return consensus.knows_nobody

    assert knows_nobody(state=False, peer=False, voters=())
    assert not knows_nobody(state=True, peer=False, voters=())
    assert not knows_nobody(state=False, peer=True, voters=())
    assert not knows_nobody(state=False, peer=False, voters=("here.1",))  # It is the only one.
    assert not knows_nobody(state=False, peer=False, voters=(), log=False)


def test_the_state_is_that_of_the_machine(replica: FakeReplica) -> None:
    machine = FakeMachine()
    assert of(replica, machine).state() is machine.state
    machine.state.cluster_id = ""
    assert refused(of(replica, machine).state).reason is Reason.NO_LEADER
    assert refused(of(None, leader=OTHER).state).reason is Reason.NOT_LEADER


def test_a_follower_has_no_leaders_state(replica: FakeReplica) -> None:
    machine = FakeMachine()
    error = refused(of(replica, machine).leader_state)
    assert error.reason is Reason.NOT_LEADER
    replica.is_leader = True
    assert of(replica, machine).leader_state() is machine.state


def test_a_read_needs_a_lease(replica: FakeReplica, reading: Any) -> None:
    """A leader that was replaced without knowing would give outdated answers."""
    machine = FakeMachine()
    replica.is_leader = True
    assert refused(of(replica, machine).read_state).reason is Reason.NOT_LEADER
    replica.leads_for_sure = True
    assert of(replica, machine).read_state() is machine.state
    assert reading.age_ms is None


def test_a_stale_read_is_answered_by_anybody_with_its_age(
    replica: FakeReplica, reading: Any
) -> None:
    machine = FakeMachine()
    reading.stale = True
    assert of(replica, machine).read_state() is machine.state
    assert reading.age_ms == 1234
    replica.leads_for_sure = True
    assert of(replica, machine).read_state() is machine.state
    assert reading.age_ms == 0
    assert refused(of(None, leader=OTHER).read_state).reason is Reason.NOT_LEADER


def test_a_backup_needs_a_lease(replica: FakeReplica) -> None:
    replica.is_leader = True
    assert refused(of(replica, FakeMachine()).freeze).reason is Reason.NOT_LEADER
    replica.leads_for_sure = True
    assert of(replica, FakeMachine()).freeze() == ("position", "frozen")
    assert refused(of(replica, None).freeze).reason is Reason.NOT_LEADER
    assert refused(of(None, FakeMachine(), leader=OTHER).freeze).reason is Reason.NOT_LEADER


def test_who_does_not_lead_names_who_does(replica: FakeReplica) -> None:
    error = of(replica).not_leader()
    assert error.reason is Reason.NOT_LEADER
    assert error.message == "this node does not lead; ask other at h:1, h:2"
    assert error.leader == Leader("other", ("h:1", "h:2"))
    assert error.retry_after == timedelta(0)
    replica.leader = NodeId("without an address")
    assert of(replica).not_leader().message.endswith("at its address")


@pytest.mark.parametrize("leader", [None, HERE])
def test_where_nobody_leads_the_caller_is_told_when_to_ask_again(
    replica: FakeReplica, leader: NodeId | None
) -> None:
    """It must not name itself: it has just said that it does not lead."""
    replica.leader = leader
    error = of(replica).not_leader()
    assert error.reason is Reason.NO_LEADER
    assert error.message == "no master leads now; try again in a moment"
    assert error.retry_after == LEADER_RETRY_AFTER == timedelta(milliseconds=300)


def test_a_node_whose_log_failed_says_so(replica: FakeReplica) -> None:
    """With NO_LEADER its callers would wait for ever."""
    replica.failed = ClusterError(Reason.LOG_STORAGE_FAILED, "the disk is full")
    assert of(replica).not_leader() is replica.failed


@virtual_time
async def test_a_proposal_carries_its_caller_its_request_and_the_time() -> None:
    replica = FakeReplica()
    await asyncio.sleep(5)
    done = await of(replica).propose(ExpireRecords(), caller="did:key:z", request_id="r1")
    assert done == ("a", "b")
    [command] = map(decode_command, replica.proposed)
    assert (command.caller, command.request_id) == ("did:key:z", "r1")
    assert command.at_ms == BEGIN_MS + 5000
    assert command.body == ExpireRecords()
    await of(replica).propose(ExpireRecords())
    last = decode_command(replica.proposed[-1])
    assert (last.caller, last.request_id) == ("", "")


@virtual_time
async def test_a_proposal_that_was_refused_says_why() -> None:
    replica = FakeReplica()
    for outcome, reason, message in (
        (Rejected(Reason.TASK_NOT_FOUND, "no such task"), Reason.TASK_NOT_FOUND, "no such task"),
        (ClusterError(Reason.OVERLOADED, "later"), Reason.OVERLOADED, "later"),
        (ClusterError(Reason.NOT_LEADER, "bare"), Reason.NOT_LEADER, "h:1, h:2"),
    ):
        replica.outcome = outcome
        with pytest.raises(ClusterError) as raised:
            await of(replica).propose(ExpireRecords())
        assert raised.value.reason is reason
        assert message in raised.value.message
    with pytest.raises(ClusterError) as raised:
        await of(None, leader=OTHER).propose(ExpireRecords())
    assert raised.value.reason is Reason.NOT_LEADER


def test_a_master_that_is_told_of_its_removal_decides_nothing_without_a_leader(
    replica: FakeReplica,
) -> None:
    consensus = of(replica, FakeMachine())
    consensus.check_in_cluster()
    consensus.take_removal(ClusterError(Reason.CALLER_UNKNOWN, "it was removed"))
    # A leader counts more: the master that says so may have gone on alone.
    consensus.check_in_cluster()
    replica.leader = None
    error = refused(consensus.check_in_cluster)
    assert error.reason is Reason.NODE_REMOVED
    assert "it was removed" in error.message
    consensus.take_removal(None)
    consensus.check_in_cluster()


def test_a_node_whose_log_is_dropped_keeps_the_leader_it_knew_unless_it_led_itself(
    replica: FakeReplica,
) -> None:
    for leader, then in ((OTHER, OTHER), (HERE, None)):
        replica.leader = leader
        consensus = of(replica, FakeMachine())
        assert consensus.require_replica() is replica
        assert consensus.known_state() is not None
        consensus.drop_log()
        assert consensus.leader == then
        assert consensus.known_state() is None
        assert refused(consensus.require_replica).reason is Reason.NOT_LEADER
