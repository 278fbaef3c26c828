"""The leader's membership: leases, and the order of what is committed. Time is simulated."""

import asyncio
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest

from ipfs_cluster_node.access.turns import Turn, set_turn
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cluster.members import (
    EXPIRY_INTERVAL_SECONDS,
    LIVENESS_INTERVAL_SECONDS,
)
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import (
    NodeId,
    did_from_node_id,
    node_id_of_voter,
    voter_id,
)
from ipfs_cluster_node.core.model import (
    SLOTS_MAX,
    TASK_TYPES_MAX,
    Liveness,
    TaskSpec,
)
from ipfs_cluster_node.core.state import MORE
from ipfs_cluster_node.core.tables import TableName, Touched
from tests.support.members import (
    LEASE,
    PEER,
    Leader,
    refused,
    watched,
)
from tests.support.virtual_time import monotonic, now_ms, virtual_loop, virtual_time
from tests.support.worlds import CLIENT, MASTER, OTHER, WORKER

# Leases.


@watched
async def test_a_node_that_is_silent_for_its_lease_is_dead_and_one_that_is_heard_lives(
    leader: Leader,
) -> None:
    began = monotonic()
    while monotonic() < began + LEASE - LIVENESS_INTERVAL_SECONDS:
        leader.members.heartbeat(OTHER)
        await asyncio.sleep(0.5)
    assert leader.liveness(WORKER) is Liveness.ALIVE
    leader.members.heartbeat(OTHER)
    await asyncio.sleep(2 * LIVENESS_INTERVAL_SECONDS + 0.1)
    assert leader.liveness(WORKER) is Liveness.DEAD
    assert leader.liveness(OTHER) is Liveness.ALIVE
    assert leader.liveness(MASTER) is Liveness.ALIVE, "the leader hears itself"


@watched
async def test_a_lost_worker_gives_its_tasks_back(leader: Leader) -> None:
    """No test noticed the mutant in which a lost worker does not wake the planner."""
    changes: list[Touched] = []
    leader.watchers.append(lambda _revision, touched: changes.append(touched))
    body = c.SubmitTasks(
        task_ids=("t",),  # type: ignore[arg-type]
        specs=(TaskSpec(task_type="echo", payload=b"x"),),
        fingerprint=sha256(b"x").digest(),
    )
    leader.commit(body, caller=CLIENT)
    leader.commit(c.AssignTasks(assignments=(("t", WORKER),)))  # type: ignore[arg-type]
    changes.clear()
    while leader.liveness(WORKER) is Liveness.ALIVE:
        leader.members.heartbeat(OTHER)
        await asyncio.sleep(0.5)
    assert [each[TableName.TASKS] for each in changes if TableName.TASKS in each] == [{"t"}]
    assert leader.committed.tasks.running_on(WORKER) == ()


@watched
async def test_a_dead_node_that_is_heard_is_alive_with_the_next_look_and_only_once(
    leader: Leader,
) -> None:
    await asyncio.sleep(LEASE + 1)
    assert leader.liveness(WORKER) is Liveness.DEAD
    leader.members.heartbeat(WORKER)
    assert leader.liveness(WORKER) is Liveness.DEAD, "not before it is committed"
    await asyncio.sleep(LIVENESS_INTERVAL_SECONDS + 0.01)
    assert leader.liveness(WORKER) is Liveness.ALIVE
    count = len(leader.proposed)
    leader.members.heartbeat(WORKER)
    await asyncio.sleep(2 * LIVENESS_INTERVAL_SECONDS)
    assert len(leader.proposed) == count, "nothing is proposed twice"


@watched
async def test_a_node_that_returned_and_fell_silent_again_stays_dead(leader: Leader) -> None:
    await asyncio.sleep(LEASE + 1)
    leader.cannot = "SetLiveness"
    leader.members.heartbeat(WORKER)
    await asyncio.sleep(LIVENESS_INTERVAL_SECONDS + 0.1)
    assert leader.liveness(WORKER) is Liveness.DEAD
    leader.cannot = ""
    await asyncio.sleep(LIVENESS_INTERVAL_SECONDS + 0.1)
    assert leader.liveness(WORKER) is Liveness.ALIVE, "what was refused is tried again"


@watched
async def test_a_new_leader_gives_every_node_a_whole_lease(leader: Leader) -> None:
    await asyncio.sleep(LEASE - 0.9)
    leader.members.heartbeat(WORKER, room_bytes=9)
    leader.on_leadership(False)
    assert leader.observations.room_bytes == {}
    leader.is_leader = False
    await asyncio.sleep(3 * LEASE)
    leader.on_leadership(True)
    leader.is_leader = True
    await asyncio.sleep(LEASE - LIVENESS_INTERVAL_SECONDS)
    assert leader.liveness(WORKER) is Liveness.ALIVE
    assert leader.did == []
    await asyncio.sleep(2 * LIVENESS_INTERVAL_SECONDS)
    assert leader.liveness(WORKER) is Liveness.DEAD


@watched
async def test_what_returned_to_the_leader_before_is_nothing_to_the_next(leader: Leader) -> None:
    await asyncio.sleep(LEASE + 1)
    leader.members.heartbeat(WORKER)
    leader.on_leadership(False)
    leader.on_leadership(True)
    await asyncio.sleep(2 * LIVENESS_INTERVAL_SECONDS)
    assert leader.liveness(WORKER) is Liveness.DEAD


@watched
async def test_a_node_that_does_not_lead_commits_nothing(leader: Leader) -> None:
    leader.is_leader = False
    await asyncio.sleep(3 * EXPIRY_INTERVAL_SECONDS)
    assert leader.did == []


@watched
async def test_a_refused_commit_ends_nothing(leader: Leader) -> None:
    leader.cannot = "SetLiveness"
    await asyncio.sleep(LEASE + 2)
    assert leader.did.count("SetLiveness") > 1
    leader.cannot = ""
    await asyncio.sleep(2 * LIVENESS_INTERVAL_SECONDS)
    assert leader.liveness(WORKER) is Liveness.DEAD


@watched
async def test_records_expire_every_minute_and_on_as_long_as_there_are_more(
    leader: Leader,
) -> None:
    answers = [(MORE,), (MORE,), ()]
    committed = leader.commit

    def commit(body: Any, **asked: str) -> tuple[str, ...]:
        if isinstance(body, c.ExpireRecords) and answers:
            committed(body, **asked)
            return answers.pop(0)
        return committed(body, **asked)

    leader.commit = commit  # type: ignore[method-assign]
    await asyncio.sleep(EXPIRY_INTERVAL_SECONDS - 0.1)
    assert leader.did.count("ExpireRecords") == 0
    await asyncio.sleep(1)
    assert leader.did.count("ExpireRecords") == 3
    await asyncio.sleep(EXPIRY_INTERVAL_SECONDS - 2)
    assert leader.did.count("ExpireRecords") == 3
    await asyncio.sleep(2.5)
    assert leader.did.count("ExpireRecords") == 4


@watched
async def test_silence_is_measured_by_the_time_that_the_leader_listened(leader: Leader) -> None:
    leader.observations.listened_seconds = lambda: 1.0
    leader.on_leadership(True)
    virtual_loop().advance(10 * LEASE)
    await asyncio.sleep(1)
    assert leader.liveness(WORKER) is Liveness.ALIVE


@watched
async def test_a_node_that_was_never_heard_is_dead(leader: Leader) -> None:
    leader.observations.heard_at.clear()
    await asyncio.sleep(LIVENESS_INTERVAL_SECONDS + 0.1)
    assert leader.liveness(WORKER) is Liveness.DEAD
    assert leader.liveness(MASTER) is Liveness.ALIVE


@virtual_time
async def test_a_heartbeat_keeps_what_the_node_said_and_answers_the_lease() -> None:
    leader = Leader()
    lease = leader.members.heartbeat(WORKER, room_bytes=10)
    assert lease == leader.members.node_lease() == timedelta(seconds=LEASE)
    leader.members.heartbeat(WORKER)
    assert leader.observations.room_bytes == {WORKER: 10}, "what is not said stays"
    for stranger in (PEER, NodeId("12D3KooWnobody")):  # Enrolled only, and none at all.
        with pytest.raises(ClusterError) as caught:
            leader.members.heartbeat(stranger)
        assert caught.value.reason is Reason.MEMBER_NOT_FOUND
    leader.is_leader = False
    with pytest.raises(ClusterError) as caught:
        leader.members.heartbeat(WORKER)
    assert caught.value.reason is Reason.NOT_LEADER


@virtual_time
async def test_news_of_certificates_come_once_for_each_version() -> None:
    leader = Leader()
    epoch, revocations = leader.members.certificate_news(WORKER, epoch=2, version=-1)
    assert (epoch, leader.observations.epochs) == (3, {WORKER: 2})
    assert revocations is not None
    assert did_from_node_id(WORKER) in revocations.node_dids
    again = leader.members.certificate_news(WORKER, epoch=3, version=revocations.version)
    assert again == (3, None)
    assert leader.members.wall_ms() == now_ms()


# Registration, and the end of it.


@virtual_time
async def test_a_master_that_registers_is_sealed_to_before_it_votes_and_is_heard() -> None:
    leader = Leader()
    lease = await leader.members.register_node(leader.registration(PEER), incarnation=4)
    assert leader.did == ["RegisterNode", "seal", f"add {voter_id(PEER, 4)}"]
    assert lease == timedelta(seconds=LEASE)
    assert leader.liveness(PEER) is Liveness.ALIVE
    assert leader.observations.heard_at[PEER] == monotonic()
    leader.did.clear()
    await leader.members.register_node(leader.registration(PEER), incarnation=4)
    assert leader.did == ["RegisterNode", f"add {voter_id(PEER, 4)}"], "it votes: nothing to seal"


@virtual_time
async def test_a_master_with_another_incarnation_is_refused_before_anything_is_written() -> None:
    leader = Leader()
    for incarnation in (3, 5, 0):
        error = await refused(
            leader.members.register_node(leader.registration(PEER), incarnation=incarnation)
        )
        assert error.reason is Reason.CALLER_NOT_ALLOWED
    assert leader.did == []


@virtual_time
async def test_a_master_to_which_nothing_can_be_sealed_does_not_vote() -> None:
    leader = Leader()
    leader.cannot = "seal"
    await refused(leader.members.register_node(leader.registration(PEER), incarnation=4))
    assert leader.did == ["RegisterNode", "seal"]


@virtual_time
async def test_a_worker_registers_without_a_vote() -> None:
    leader = Leader()
    await leader.members.register_node(leader.registration(WORKER), incarnation=0)
    assert leader.did == ["RegisterNode"]
    node = leader.committed.members.node(WORKER)
    assert node is not None
    assert node.version == "2"


@pytest.mark.parametrize(
    ("changed", "good"),
    [
        ({"task_types": tuple(f"t{n}" for n in range(TASK_TYPES_MAX))}, True),
        ({"task_types": tuple(f"t{n}" for n in range(TASK_TYPES_MAX + 1))}, False),
        ({"slot_count": SLOTS_MAX}, True),
        ({"slot_count": SLOTS_MAX + 1}, False),
        ({"slot_count": 0}, True),
        ({"slot_count": -1}, False),
        ({"endpoints": ("no port",)}, False),
    ],
)
def test_what_a_node_registers_is_bounded(changed: dict[str, Any], good: bool) -> None:  # noqa: FBT001
    @virtual_time
    async def run() -> None:
        leader = Leader()
        work = leader.members.register_node(leader.registration(WORKER, **changed), incarnation=0)
        if good:
            await work
            return
        assert (await refused(work)).reason is Reason.INVALID_ARGUMENT
        assert leader.did == []

    run()


@virtual_time
async def test_nobody_registers_who_is_no_member() -> None:
    leader = Leader()
    stranger = Identity.create().node_id
    error = await refused(
        leader.members.register_node(leader.registration(stranger), incarnation=0)
    )
    assert error.reason is Reason.MEMBER_NOT_FOUND
    assert leader.did == []


@virtual_time
async def test_a_master_stops_voting_before_it_is_removed() -> None:
    leader = Leader()
    voter = voter_id(PEER, 4)
    leader.voters |= {voter}
    await leader.members.remove_node(PEER, caller=CLIENT, request_id="r")
    assert leader.did == [f"remove {voter}", "RemoveNode"]
    assert did_from_node_id(PEER) in leader.committed.members.removed
    # A repeat of it is answered the same, though there is nobody left to stop voting.
    await leader.members.remove_node(PEER, caller=CLIENT, request_id="r")
    leader.did.clear()
    await leader.members.remove_node(WORKER, caller=CLIENT, request_id="w")
    assert leader.did == ["RemoveNode"]


@virtual_time
async def test_a_master_that_can_t_stop_voting_stays_a_member() -> None:
    leader = Leader()
    leader.cannot = "remove"
    await refused(leader.members.remove_node(PEER, caller=CLIENT, request_id="r"))
    assert leader.committed.members.node(PEER) is not None


def add_file(leader: Leader, cid: str, *holders: NodeId) -> None:
    leader.commit(c.AddContent(cid=cid, size_bytes=1, holders=holders, name=""))


@virtual_time
async def test_the_last_holder_of_files_is_removed_only_where_they_may_be_lost() -> None:
    leader = Leader()
    leader.voters |= {voter_id(PEER, 4)}
    for cid in ("a", "b"):
        add_file(leader, cid, PEER)
    add_file(leader, "c", MASTER, PEER)
    error = await refused(leader.members.remove_node(PEER, caller=CLIENT, request_id="r"))
    assert error.reason is Reason.FILES_AT_RISK
    assert error.metadata == {"file_count": "2"}
    assert "2 files are held by" in error.message
    assert "--lose-files" in error.message
    assert leader.did == [], "it votes on, too"
    await leader.members.remove_node(PEER, caller=CLIENT, request_id="r", lose_files=True)
    assert leader.did == [f"remove {voter_id(PEER, 4)}", "RemoveNode"]


@virtual_time
async def test_a_worker_is_no_other_holder() -> None:
    # It is named as a holder of its results, but does not keep them.
    leader = Leader()
    add_file(leader, "a", PEER, WORKER)
    error = await refused(leader.members.remove_node(PEER, caller=CLIENT, request_id="p"))
    assert error.reason is Reason.FILES_AT_RISK
    await leader.members.remove_node(WORKER, caller=CLIENT, request_id="w")


@virtual_time
async def test_a_holder_that_was_removed_does_not_count() -> None:
    leader = Leader()
    third = leader.add_master()
    add_file(leader, "a", third, PEER)
    await leader.members.remove_node(third, caller=CLIENT, request_id="w")
    error = await refused(leader.members.remove_node(PEER, caller=CLIENT, request_id="p"))
    assert error.reason is Reason.FILES_AT_RISK
    # A repeat of what was done is answered the same.
    await leader.members.remove_node(third, caller=CLIENT, request_id="w")


@virtual_time
async def test_two_holders_that_are_removed_at_once_are_not_both_removed() -> None:
    leader = Leader()
    third = leader.add_master()
    add_file(leader, "a", third, PEER)
    ends = await asyncio.gather(
        *(
            leader.members.remove_node(node_id, caller=CLIENT, request_id=node_id)
            for node_id in (third, PEER)
        ),
        return_exceptions=True,
    )
    assert [getattr(end, "reason", None) for end in ends] == [None, Reason.FILES_AT_RISK]


class ShortTurn(Turn):
    """Over after each step; counts them."""

    def __init__(self) -> None:
        self.count = 0

    @property
    def over(self) -> bool:
        return True

    async def next(self) -> None:
        self.count += 1


@virtual_time
async def test_files_are_gone_through_in_slices() -> None:
    leader, turn = Leader(), ShortTurn()
    for number in range(3):
        add_file(leader, f"{number}", MASTER, PEER)
    set_turn(turn)
    await leader.members.remove_node(PEER, caller=CLIENT, request_id="r")
    assert turn.count == 3


# Leadership and logs.


@virtual_time
async def test_leadership_goes_to_the_named_master_or_to_the_successor() -> None:
    leader = Leader()
    move = leader.members.transfer_leadership
    assert await move(PEER, source=None) == PEER
    assert await move(None, source=None) == PEER
    assert await move(None, source=MASTER) == PEER
    voter = voter_id(PEER, 4)
    assert leader.did == [f"transfer {voter}"] * 3
    stranger = Identity.create().node_id
    await move(stranger, source=None)
    assert leader.did[-1] == f"transfer {voter_id(stranger, 0)}"
    leader.did.clear()
    # Done already: it leads, or the one that is to give leadership up does not lead.
    assert await move(MASTER, source=None) == MASTER
    assert await move(MASTER, source=PEER) == MASTER
    assert await move(None, source=PEER) == MASTER
    assert leader.did == []
    leader.leads_for_sure = False
    for target, source in ((MASTER, None), (None, PEER)):
        error = await refused(move(target, source=source))
        assert error.reason is Reason.NOT_LEADER


@virtual_time
async def test_a_replaced_log_is_a_new_voter_and_a_repeat_gets_the_first_answer() -> None:
    leader = Leader()
    old = voter_id(PEER, 4)
    leader.voters |= {old}
    caller = did_from_node_id(PEER)
    replace = leader.members.replace_log
    granted = await replace(PEER, damaged=4, caller=caller, request_id="r")
    assert leader.did == [f"remove {old}", "ReplaceLog"]
    assert granted > 4
    leader.voters |= {voter_id(PEER, granted)}
    leader.did.clear()
    assert await replace(PEER, damaged=4, caller=caller, request_id="r") == granted
    assert leader.did == ["ReplaceLog"], "the new voter goes on voting"
    # An old copy that comes back later asks for itself, and takes nothing from the new one.
    error = await refused(replace(PEER, damaged=4, caller=caller, request_id="another"))
    assert error.reason is Reason.CALLER_NOT_ALLOWED
    assert voter_id(PEER, granted) in leader.voters
    error = await refused(replace(WORKER, damaged=0, caller=caller, request_id="w"))
    assert error.reason is Reason.MEMBER_NOT_FOUND
    stranger = Identity.create().node_id
    error = await refused(replace(stranger, damaged=0, caller=caller, request_id="s"))
    assert error.reason is Reason.MEMBER_NOT_FOUND


@virtual_time
async def test_a_log_of_no_voter_is_replaced_as_well() -> None:
    leader = Leader()
    caller = did_from_node_id(PEER)
    granted = await leader.members.replace_log(PEER, damaged=3, caller=caller, request_id="r")
    assert leader.did == ["ReplaceLog"]
    assert granted > 4
    assert {node_id_of_voter(voter) for voter in leader.voters} == {MASTER}


@virtual_time
async def test_masters_are_told_with_the_leader_first() -> None:
    leader = Leader()
    for first in (MASTER, PEER):
        leader.leader = first
        assert next(m.node_id for m in leader.members.masters()) == first
        assert {m.node_id for m in leader.members.masters()} == {MASTER, PEER}
    leader.leader = None  # type: ignore[assignment]
    dids = [m.did for m in leader.members.masters()]
    assert dids == sorted(dids)
