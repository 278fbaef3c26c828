"""The replica over real streams with mutual TLS and real files."""

import asyncio
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from ipfs_cluster_node.adapters.raft import link
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.journal import Pending
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.core.errors import ClusterError, Leader, Reason
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from ipfs_cluster_node.internal.v1 import raft_pb2_grpc
from tests.support.engines import pre_vote_round
from tests.support.replicas import FAST, ListMachine, ReplicaCluster


@pytest.mark.asyncio
async def test_commits_and_survives_the_loss_of_its_leader(tmp_path: Path) -> None:
    async with ReplicaCluster(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        results = await asyncio.gather(
            *(leader.replica.propose(f"a{n}".encode()) for n in range(500))
        )
        assert sorted(results, key=repr) == sorted(((n + 1, f"a{n}") for n in range(500)), key=repr)
        await leader.stop()
        successor = await cluster.leader(but=leader.node_id)
        await successor.replica.propose(b"after")
        await cluster.until_equal(501)
        for host in cluster.hosts.values():
            if host is not leader:
                assert host.machine.commands == [*(f"a{n}" for n in range(500)), "after"]


@pytest.mark.asyncio
async def test_all_stopped_and_started_again_have_every_command(tmp_path: Path) -> None:
    async with ReplicaCluster(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        for n in range(20):
            await leader.replica.propose(str(n).encode())
        for host in cluster.hosts.values():
            await host.stop()
        for host in cluster.hosts.values():
            await host.start()
        leader = await cluster.leader()
        await leader.replica.propose(b"last")
        await cluster.until_equal(21)
        for host in cluster.hosts.values():
            assert host.machine.commands == [*map(str, range(20)), "last"]


@pytest.mark.asyncio
async def test_a_follower_far_behind_gets_a_snapshot(tmp_path: Path) -> None:
    config = replace(FAST, snapshot_entries=20, trailing_entries=5)
    async with ReplicaCluster(tmp_path, 3, config) as cluster:
        leader = await cluster.leader()
        behind = next(h for h in cluster.hosts.values() if h is not leader)
        await behind.stop()
        for n in range(200):
            await leader.replica.propose(f"{n}".encode())
        assert leader.replica.engine.journal.first_index > 100
        await behind.start()
        await cluster.until_equal(200)
        assert behind.machine.commands == leader.machine.commands
        # The snapshot and the log behind it hold after a restart as well.
        await behind.stop()
        await behind.start()
        await leader.replica.propose(b"more")
        await cluster.until_equal(201)
        assert behind.machine.commands == leader.machine.commands


@pytest.mark.asyncio
async def test_voters_are_added_one_at_a_time_and_removed(tmp_path: Path) -> None:
    async with ReplicaCluster(tmp_path, 1) as cluster:
        first = await cluster.leader()
        await first.replica.propose(b"one")
        for _ in range(2):
            joining = cluster.make_host()
            create_store(DirectoryDisk(joining.directory), joining.voter, [])
            await joining.start()
            await first.replica.add_voter(joining.voter)
        await first.replica.propose(b"two")
        await cluster.until_equal(2)
        assert {frozenset(h.replica.voters) for h in cluster.hosts.values()} == {
            frozenset(h.voter for h in cluster.hosts.values())
        }
        await first.stop()
        leader = await cluster.leader(but=first.node_id)
        await leader.replica.propose(b"three")
        await first.start()
        await cluster.until_equal(3)
        other = next(h for h in cluster.hosts.values() if h not in (first, leader))
        await leader.replica.remove_voter(other.voter)
        assert leader.replica.voters == {first.voter, leader.voter}


@pytest.mark.asyncio
async def test_a_voter_that_nobody_can_dial_is_refused(tmp_path: Path) -> None:
    async with ReplicaCluster(tmp_path, 1) as cluster:
        first = await cluster.leader()
        await first.replica.propose(b"one")
        absent = cluster.make_host()
        absent.task = first.task
        with pytest.raises(ClusterError) as caught:
            await first.replica.add_voter(absent.voter)
        assert caught.value.reason is Reason.PEER_UNREACHABLE
        await first.replica.propose(b"still here")
        del cluster.hosts[absent.node_id]


@pytest.mark.asyncio
async def test_a_raising_apply_is_answered_and_stops_nothing(tmp_path: Path) -> None:
    """Raft hazard H11."""
    async with ReplicaCluster(tmp_path, 1) as cluster:
        leader = await cluster.leader()
        with pytest.raises(ClusterError) as caught:
            await leader.replica.propose(b"raise")
        assert caught.value.reason is Reason.INTERNAL
        await leader.replica.propose(b"next")
        assert leader.machine.commands == ["next"]


@pytest.mark.asyncio
async def test_a_follower_refuses_and_names_the_leader(tmp_path: Path) -> None:
    async with ReplicaCluster(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"x")
        await cluster.until_equal(1)
        follower = next(h for h in cluster.hosts.values() if h is not leader)
        with pytest.raises(ClusterError) as caught:
            await follower.replica.propose(b"y")
        assert caught.value.reason is Reason.NOT_LEADER
        assert caught.value.leader == Leader(leader.node_id)


@pytest.mark.asyncio
async def test_h15_writes_at_a_leader_that_loses_its_majority_are_answered(tmp_path: Path) -> None:
    async with ReplicaCluster(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"x")
        for host in cluster.hosts.values():
            if host is not leader:
                await host.stop()
        proposals = []
        async with asyncio.timeout(5):
            for n in range(3):  # The first is under way, and the others wait for it.
                proposals.append(asyncio.create_task(leader.replica.propose(str(n).encode())))
                await asyncio.sleep(0.05)
            answers = await asyncio.gather(*proposals, return_exceptions=True)
        reasons = [getattr(answer, "reason", answer) for answer in answers]
        assert reasons == [Reason.UNKNOWN_OUTCOME, Reason.NO_LEADER, Reason.NO_LEADER]


@pytest.mark.asyncio
async def test_h15_writes_at_a_leader_that_never_served_are_answered(tmp_path: Path) -> None:
    """It wins its election, but nobody acknowledges the first entry of its term."""
    cluster = ReplicaCluster(tmp_path, 3)
    host, *others = cluster.hosts.values()
    replica = Replica(
        directory=host.directory, machine=ListMachine(), dial=lambda _node: None, config=FAST
    )
    replica.engine.connected(others[0].voter, up=True)
    running = asyncio.create_task(replica.run())
    async with asyncio.timeout(10):
        while replica.term == 0 or not replica.engine.leads:
            vote = pb.RaftMessage(term=replica.term)
            vote.vote_granted.SetInParent()
            grant = pb.RaftMessage(term=replica.term)
            grant.pre_vote_granted.round = pre_vote_round(replica.engine)
            replica._inbox += [(others[0].voter, each, 0) for each in (vote, grant)]
            await asyncio.sleep(0.01)
        assert not replica.is_leader
        proposals = [asyncio.create_task(replica.propose(str(n).encode())) for n in range(3)]
        answers = await asyncio.gather(*proposals, return_exceptions=True)
    reasons = {getattr(answer, "reason", answer) for answer in answers}
    assert reasons <= {Reason.UNKNOWN_OUTCOME, Reason.NO_LEADER}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.asyncio
async def test_a_link_that_fails_in_whatever_way_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its task died of an error that it did not know, and a voter was unheard for good."""
    faults: list[BaseException] = [
        asyncio.InvalidStateError(),
        asyncio.CancelledError(),
        RuntimeError(),
    ]

    def fails_first(channel: grpc.aio.Channel) -> object:
        if faults:
            raise faults.pop()
        return raft_pb2_grpc.RaftServiceStub(channel)

    monkeypatch.setattr(link, "RaftServiceStub", fails_first)
    async with ReplicaCluster(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"x")
        await cluster.until_equal(1)
        assert faults == []
        async with asyncio.timeout(10):
            for host in cluster.hosts.values():
                for each, _ in host.replica._links.values():
                    await each.up.wait()


@pytest.mark.asyncio
async def test_leadership_is_handed_over_to_who_was_named(tmp_path: Path) -> None:
    async with ReplicaCluster(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"before")
        target = next(h for h in cluster.hosts.values() if h is not leader)
        await leader.replica.transfer_leadership(target.voter)
        assert (await cluster.leader(but=leader.node_id)) is target
        await target.replica.propose(b"after")
        await cluster.until_equal(2)
        assert leader.machine.commands == ["before", "after"]
        with pytest.raises(ClusterError) as caught:
            await target.replica.transfer_leadership(target.voter)
        assert caught.value.reason is Reason.MEMBER_NOT_FOUND
        with pytest.raises(ClusterError) as caught:
            await target.replica.remove_voter(target.voter)
        assert caught.value.reason is Reason.QUORUM_AT_RISK


def hang_disk(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No write of the log ends before the event is set."""
    hangs = threading.Event()
    write = replica.engine.journal.write_and_sync

    def slow_write(pending: Pending) -> None:
        hangs.wait(10)
        write(pending)

    monkeypatch.setattr(replica.engine.journal, "write_and_sync", slow_write)
    return hangs


@pytest.mark.asyncio
async def test_a_leader_whose_disk_hangs_leads_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its callers waited 4 s for two writes to end, although there was another leader."""
    async with ReplicaCluster(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        replica = leader.replica
        told: list[bool] = []
        monkeypatch.setattr(replica, "on_leadership", lambda leads, _term: told.append(leads))
        hangs = hang_disk(replica, monkeypatch)
        try:
            calls = [asyncio.create_task(replica.propose(b"%d" % n)) for n in range(3)]
            async with asyncio.timeout(3 * FAST.fallback_timeout.total_seconds()):
                answers = await asyncio.gather(*calls, return_exceptions=True)
            reasons = [each.reason for each in answers if isinstance(each, ClusterError)]
            assert len(reasons) == 3
            assert set(reasons) <= {Reason.UNKNOWN_OUTCOME, Reason.NO_LEADER}
            # Whoever follows the leadership is told at once, and so wakes when it comes back.
            assert told == [False]
            assert not replica.is_leader
            with pytest.raises(ClusterError):
                await replica.propose(b"later")
            successor = await cluster.leader(but=leader.node_id)
            await successor.replica.propose(b"after")
        finally:
            hangs.set()
        await successor.replica.propose(b"last")
        await cluster.until_equal(len(successor.machine.commands))
        assert leader.machine.commands == successor.machine.commands


@pytest.mark.asyncio
async def test_alone_a_master_waits_for_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ReplicaCluster(tmp_path, 1) as cluster:
        leader = await cluster.leader()
        hangs = hang_disk(leader.replica, monkeypatch)
        call = asyncio.create_task(leader.replica.propose(b"one"))
        await asyncio.sleep(2 * FAST.fallback_timeout.total_seconds())
        assert leader.replica.is_leader
        assert not call.done()
        hangs.set()
        assert await call == (1, "one")


@pytest.mark.asyncio
async def test_h26_a_follower_put_back_to_an_old_copy_goes_no_further(tmp_path: Path) -> None:
    """With the other follower behind, it would make a majority without what was acknowledged."""
    async with ReplicaCluster(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        back, behind = (host for host in cluster.hosts.values() if host is not leader)
        await leader.replica.propose(b"before")
        await cluster.until_equal(1)
        await behind.stop()
        copy = tmp_path / "copy"
        shutil.copytree(back.directory, copy)
        for number in range(30):
            await leader.replica.propose(f"{number}".encode())
        await back.stop()
        shutil.rmtree(back.directory)
        shutil.rmtree(back.notes)  # So that only the others can tell.
        copy.rename(back.directory)
        await back.start()
        with pytest.raises(LogDamagedError, match="old copy"):
            await asyncio.wait_for(back.task, 10)
        await back.server.stop(None)
        # The others make a majority, and have it all.
        await behind.start()
        await (await cluster.leader()).replica.propose(b"after")
        await cluster.until_equal(32)
        for host in (leader, behind):
            assert host.machine.commands == ["before", *map(str, range(30)), "after"]


@pytest.mark.asyncio
async def test_h26_a_log_put_back_alone_is_noticed_without_anybody_else(tmp_path: Path) -> None:
    async with ReplicaCluster(tmp_path, 1) as cluster:
        [host] = cluster.hosts.values()
        await cluster.leader()
        copy = tmp_path / "copy"
        shutil.copytree(host.directory, copy)
        await host.replica.propose(b"one")
        await host.stop()
        await host.start()  # With all it had it goes on.
        await cluster.leader()
        await host.stop()
        shutil.rmtree(host.directory)
        copy.rename(host.directory)
        with pytest.raises(LogDamagedError, match="old copy"):
            await host.start()
