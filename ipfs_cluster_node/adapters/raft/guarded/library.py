"""The library: what stands in place of its globals."""

import pysyncobj.syncobj
from pysyncobj.node import Node
from pysyncobj.serializer import SERIALIZER_STATE

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.errors import ConsensusViolationError
from ipfs_cluster_node.core.ids import VoterId


class _NoPickle:
    """Replaces pickle (hazard H17): nothing here needs it."""

    @staticmethod
    def loads(_data: bytes) -> object:
        raise ConsensusViolationError("a peer's or a file's bytes reached pickle")

    dumps = loads


class _NoPoller:
    """Takes the place of PySyncObj's poller: the replica does the waiting."""

    def poll(self, timeout: float) -> None:
        """Nothing to wait for."""


class VoterNode(str, Node):  # type: ignore[misc]  # PySyncObj has no types.
    """A voter, as PySyncObj has it: compared and hashed as the string that it is.

    PySyncObj's own nodes do that in Python, by way of a property: a tenth of all calls of a write.
    """

    __slots__ = ("id",)

    def __init__(self, voter: VoterId) -> None:
        """Name a voter."""
        object.__setattr__(self, "id", voter)


class NoSerializer:
    """Replaces PySyncObj's snapshots by our own (hazards H5, H6, H8, H16, H18 to H20)."""

    def checkSerializing(self) -> tuple[int, None]:
        """Never busy."""
        return SERIALIZER_STATE.NOT_SERIALIZING, None


pysyncobj.syncobj.pickle = _NoPickle
pysyncobj.syncobj.createJournal = lambda journal: journal
pysyncobj.syncobj.monotonicTime = now
pysyncobj.syncobj.PIPE_NOTIFIER_ENABLED = False  # Nothing waits in its poller.
pysyncobj.syncobj.createPoller = lambda _kind: _NoPoller()
