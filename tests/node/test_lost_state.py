"""A master whose `state` directory is lost or damaged: its log says who the others are."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.identify import MemberIdentification
from ipfs_cluster_node.adapters.audit.files import FileAuditLog
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.adapters.raft.restore import create_store_of, read_store
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.adapters.raft.witness import NOTE_NAME, Mark, Witness, open_notes
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import load_settings
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, VoterId, voter_id
from ipfs_cluster_node.node.files import load_files
from ipfs_cluster_node.node.log_repair import LogRepair
from ipfs_cluster_node.node.log_replacement import begun_replacement
from ipfs_cluster_node.node.node import Node
from tests.support.survivors import OTHERS, home_of_three
from tests.support.tls import Context, certified, enrol, make_ca
from tests.support.virtual_time import loop_clock, now_ms

ELSEWHERE = {OTHERS[0].node_id: ("127.0.0.1:7",)}
VOTER = VoterId("a.1")


def node_of(home: Home) -> Node:
    return Node(home, load_settings(home.config), clock=loop_clock())


def others_known(node: Node) -> set[NodeId]:
    return {node_id for _, node_id in node._common.peers.targets() if node_id} - {node.node_id}


@pytest.mark.parametrize("lost", ["masters.json", "state"])
@pytest.mark.asyncio
async def test_a_master_finds_the_others_by_a_log_that_nothing_is_applied_of(
    tmp_path: Path, lost: str
) -> None:
    home = home_of_three(tmp_path)
    if lost == "state":
        shutil.rmtree(home.state)
    else:
        home.masters.unlink()
    node = node_of(home)
    assert not node._member.consensus.has_state
    assert others_known(node) == {other.node_id for other in OTHERS}
    identify = MemberIdentification(
        known_state=node._member.consensus.known_state,
        is_master=node._common.peers.is_master,
        now_ms=now_ms,
    )
    for other in OTHERS:
        assert node._common.peers.endpoints(other.node_id) == ("127.0.0.1:1",)
        assert identify(Context(certified(make_ca(), other))).kind is CallerClass.MASTER  # type: ignore[arg-type]
    assert not node.take_masters(ELSEWHERE)  # Its log says who they are.
    await node._stop()


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.asyncio
async def test_whom_only_the_log_named_replace_it_where_it_is_refused(
    tmp_path: Path, *, snapshot: bool
) -> None:
    """As an old copy of it, beside a lost `state`: the repair said that no other master is known."""
    home = home_of_three(tmp_path)
    if snapshot:
        stored = read_store(DirectoryDisk(home.raft), machine := ReplicatedStateMachine())
        shutil.rmtree(home.raft)
        create_store_of(
            DirectoryDisk(home.raft), stored.voter, machine, index=stored.index, term=stored.term
        )
    shutil.rmtree(home.state)
    node = node_of(home)
    assert node._member.consensus.has_state is snapshot
    assert others_known(node) == {other.node_id for other in OTHERS}
    await node._stop()
    repair = LogRepair(
        home, load_settings(home.config), load_files(home), "it is an old copy", clock=loop_clock()
    )
    assert {node_id for _, node_id in repair._peers.targets()} > {o.node_id for o in OTHERS}
    await repair._connection.close()


@pytest.mark.asyncio
async def test_a_master_whose_log_names_nobody_takes_a_master_that_the_operator_names(
    tmp_path: Path,
) -> None:
    home = home_of_three(tmp_path)
    home.masters.unlink()
    shutil.rmtree(home.raft)  # As that of a master which joined, and heard nothing yet.
    own = Identity.load(home.identity).node_id
    create_store(DirectoryDisk(home.raft), voter_id(own, 1), [])
    node = node_of(home)
    health = {check.name: check for check in node.health.get_health().checks}
    assert "serve --master" in health["leader"].detail
    assert node.take_masters(ELSEWHERE)
    assert others_known(node) == set(ELSEWHERE)
    assert ("127.0.0.1:7", OTHERS[0].node_id) in node._common.connection.targets
    health = {check.name: check for check in node.health.get_health().checks}
    assert "serve --master" not in health["leader"].detail
    await node._stop()
    assert PeerBook(home.masters).is_master(OTHERS[0].node_id)


def test_who_has_heard_nothing_does_not_say_that_somebody_is_no_member(tmp_path: Path) -> None:
    peers, replica = PeerBook(tmp_path / "masters"), cast("Replica", None)
    empty, without = (Consensus(NodeId("here"), peers=peers, now_ms=now_ms) for _ in range(2))
    empty.use_log(ReplicatedStateMachine(), replica)
    for consensus in (empty, without):
        identify = MemberIdentification(
            known_state=consensus.known_state, is_master=peers.is_master, now_ms=now_ms
        )
        with pytest.raises(ClusterError) as caught:
            identify(Context(enrol(make_ca())))  # type: ignore[arg-type]
        assert caught.value.reason is Reason.NO_LEADER
        assert "not a member" not in caught.value.message


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text(""),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text('{"nobody": ["nowhere"]}'),
        lambda path: path.write_text('{"a": 1}'),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.mkdir(),
        os.mkfifo,
    ],
)
def test_a_damaged_file_of_the_masters_is_taken_for_absent(
    tmp_path: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "masters.json"
    damage(path)
    assert PeerBook(path).targets() == []
    assert "file of the masters is unreadable" in caplog.text


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_note_of_marks_that_cant_be_read_is_set_aside(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / NOTE_NAME)
    witness = Witness(open_notes(tmp_path))
    assert witness.of(VOTER) == Mark()
    witness.saw_entry(VOTER, 5, 2)
    note = witness.note([VOTER], 0.0)
    assert note is not None
    note.write()
    assert Witness(open_notes(tmp_path)).of(VOTER) == Mark(5, 2, 0)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", ["audit.jsonl", "audit.jsonl.1", "audit-denied.jsonl"])
def test_an_audit_file_that_is_none_is_named_with_the_way_out(
    tmp_path: Path, name: str, make: Callable[[Path], object]
) -> None:
    make(tmp_path / name)
    with pytest.raises(ClusterError, match="move it away") as caught:
        FileAuditLog(tmp_path / "audit.jsonl", clock=loop_clock())
    assert caught.value.reason is Reason.HOME_DAMAGED
    assert str(tmp_path / name) in caught.value.message


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_note_of_a_replacement_that_cant_be_read_is_named(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    home = Home(tmp_path)
    home.state.mkdir()
    make(home.replacement)
    with pytest.raises(ClusterError, match="log-replacement") as caught:
        begun_replacement(home)
    assert caught.value.reason is Reason.HOME_DAMAGED
