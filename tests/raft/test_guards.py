"""What every voter guards around PySyncObj: names, times, messages. Others by their role."""

import inspect
import pickle
import random
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pysyncobj.syncobj
import pytest

from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.errors import ConsensusViolationError
from ipfs_cluster_node.adapters.raft.guarded import library
from ipfs_cluster_node.adapters.raft.messages import decode_message, encode_message
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from scripts.lib.sim.disk import MemoryDisk
from tests.support.replicas import ListMachine
from tests.support.voters import SELF, Host


def test_the_private_members_that_are_used_exist() -> None:
    ours = "".join(path.read_text() for path in Path(library.__file__).parent.glob("*.py"))
    theirs = inspect.getsource(pysyncobj.syncobj)
    used = set(re.findall(r"_SyncObj(__\w+)", ours))
    assert len(used) >= 19
    assert {name for name in used if not re.search(rf"\b{name}\b", theirs)} == set()


@pytest.mark.parametrize(
    ("heartbeat", "least", "most"),
    [(5, 600, 1200), (300, 600, 1200), (200, 600, 1200), (100, 600, 800)],
)
def test_times_that_would_not_hold_together_are_refused(
    heartbeat: int, least: int, most: int
) -> None:
    with pytest.raises(ClusterError) as caught:
        RaftConfig(
            heartbeat_interval=timedelta(milliseconds=heartbeat),
            election_timeout_min=timedelta(milliseconds=least),
            election_timeout_max=timedelta(milliseconds=most),
        )
    assert caught.value.reason is Reason.CONFIG_INVALID


@pytest.mark.parametrize(
    ("heartbeat", "least", "most"),
    [(100, 4_000, 6_000), (10, 31, 47), (199, 600, 900), (2_000, 60_000, 3_600_000)],
)
def test_times_that_are_taken_are_taken_by_pysyncobj_too(
    heartbeat: int, least: int, most: int
) -> None:
    """An assertion would keep a node from starting, for an obscure reason."""
    config = RaftConfig(
        heartbeat_interval=timedelta(milliseconds=heartbeat),
        election_timeout_min=timedelta(milliseconds=least),
        election_timeout_max=timedelta(milliseconds=most),
    )
    disk = MemoryDisk(random.Random(0))
    create_store(disk, SELF, [SELF])
    assert Engine(disk=disk, machine=ListMachine(), config=config).voters == {SELF}


def test_h17_and_h22_nothing_is_unpickled_and_nothing_else_travels(
    host_of: Callable[..., Host],
) -> None:
    host = host_of()
    with pytest.raises(ConsensusViolationError):
        pysyncobj.syncobj.pickle.loads(pickle.dumps("x"))
    for message in (
        {"type": "apply_command", "command": b"\x02evil"},
        {"type": "append_entries", "transmission": "start", "data": b"", "term": 1},
    ):
        assert encode_message(message, 1) is None
    version = pb.RaftMessage(term=1)
    version.append_entries.previous_index = 1
    version.append_entries.entries.add(index=2, term=1, command=b"\x03evil")
    assert decode_message(version) is None
    gap = pb.RaftMessage(term=1)
    gap.append_entries.previous_index = 1
    gap.append_entries.entries.add(index=5, term=1, command=b"\x00")
    assert decode_message(gap) is None
    assert decode_message(pb.RaftMessage(term=1)) is None
    host.raft.receive(
        VoterId("stranger.1"),
        {
            "type": "next_node_idx",
            "sent_at_ns": 0,
            "term": 0,
            "next_node_idx": 9,
            "reset": True,
            "success": True,
        },
    )
