"""Members that leave at their own request, as seen by the leader."""

import asyncio

import pytest

from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import did_from_node_id, voter_id
from ipfs_cluster_node.core.model import Liveness
from tests.support.members import PEER, Leader, refused
from tests.support.virtual_time import virtual_time
from tests.support.worlds import MASTER, WORKER

VOTER, LEADS = voter_id(PEER, 4), voter_id(MASTER, 1)


async def leave(leader: Leader, node_id: str, **asked: bool) -> None:
    given = {"lose_files": False, "check_only": False} | asked
    await leader.members.leave_cluster(node_id, request_id="r", **given)  # type: ignore[arg-type]


def leader_of_two() -> Leader:
    leader = Leader()
    leader.voters |= {VOTER}
    return leader


@virtual_time
async def test_a_master_that_leaves_stops_voting_and_is_removed_in_its_own_name() -> None:
    leader = leader_of_two()
    await leave(leader, PEER)
    assert leader.did == [f"remove {VOTER}", "RemoveNode"]
    assert did_from_node_id(PEER) in leader.committed.members.removed


@virtual_time
async def test_whether_it_may_leave_is_said_without_a_change() -> None:
    leader = leader_of_two()
    await leave(leader, PEER, check_only=True)
    assert leader.did == [f"check {VOTER}"]
    leader.cannot = "check"
    for asked in (True, False):
        error = await refused(leave(leader, MASTER, check_only=asked))
        assert error.reason is Reason.AUTHORITY_SEALED
    assert leader.did[1:] == [f"check {LEADS}"] * 2, "it leads on"
    assert leader.committed.members.node(PEER) is not None


@virtual_time
async def test_a_leader_hands_over_first_and_says_whom_to_ask() -> None:
    leader = leader_of_two()
    error = await refused(leave(leader, MASTER))
    assert error.reason is Reason.NOT_LEADER
    assert leader.did == [f"check {LEADS}", f"transfer {VOTER}"]
    assert leader.committed.members.node(MASTER) is not None


@pytest.mark.parametrize("node_id", [PEER, MASTER])
@pytest.mark.parametrize("check_only", [True, False])
def test_the_last_holder_of_files_stays_unless_they_may_be_lost(
    node_id: str,
    check_only: bool,  # noqa: FBT001
) -> None:
    async def run() -> None:
        leader = leader_of_two()
        leader.commit(c.AddContent(cid="a", size_bytes=1, holders=(node_id,), name=""))  # type: ignore[arg-type]
        error = await refused(leave(leader, node_id, check_only=check_only))
        assert error.reason is Reason.FILES_AT_RISK
        assert leader.did == []
        await leave(leader, node_id, check_only=True, lose_files=True)

    virtual_time(run)()


@virtual_time
async def test_who_is_no_member_can_not_leave() -> None:
    leader = Leader()
    await leave(leader, PEER, lose_files=True)
    error = await refused(leave(leader, PEER))
    assert error.reason is Reason.MEMBER_NOT_FOUND


@virtual_time
async def test_what_a_node_stores_is_as_old_as_its_heartbeat_and_unknown_of_the_dead() -> None:

    leader = Leader()

    def stored() -> tuple[int, int] | None:
        node = leader.committed.members.node(WORKER)
        assert node is not None
        return leader.members.stored_by(node)

    await leader.members.register_node(leader.registration(WORKER), incarnation=0)
    assert stored() is None
    leader.members.heartbeat(WORKER, content_bytes=12)
    await asyncio.sleep(1.5)
    assert stored() == (12, 1500)
    leader.commit(c.SetLiveness(alive=(), dead=(WORKER,)))
    assert leader.liveness(WORKER) is Liveness.DEAD
    assert stored() is None
    leader.commit(c.SetLiveness(alive=(WORKER,), dead=()))
    leader.on_leadership(True)
    assert stored() is None
