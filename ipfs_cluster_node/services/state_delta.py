"""StateDeltaService."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from ipfs_cluster_node.access.context import current_permissions
from ipfs_cluster_node.access.turns import current_turn
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.state_watches import StateWatches
from ipfs_cluster_node.codec.arrow_tables import SnapshotWriter, table_rows
from ipfs_cluster_node.codec.state_watch import WatchWriter, interval_of, watched_of
from ipfs_cluster_node.v1 import state_delta_pb2 as pb
from ipfs_cluster_node.v1 import state_delta_pb2_grpc


class StateDeltaServicer(state_delta_pb2_grpc.StateDeltaServiceServicer):
    """The state as Arrow tables."""

    def __init__(self, consensus: Consensus, watches: StateWatches) -> None:
        self._consensus = consensus
        self._watches = watches

    async def GetSnapshot(
        self, request: pb.GetSnapshotRequest, context: Any
    ) -> AsyncIterator[pb.GetSnapshotResponse]:
        """Send a whole table, as of now."""
        permissions, turn = current_permissions(), current_turn()
        await turn.next()  # Copying the list of a million rows takes a turn of its own.
        rows = table_rows(
            request.table,
            self._consensus.read_state(),
            self._consensus.committed_voters,
            caller=permissions.caller.did,
            allows=permissions.allows,
        )
        applied_index = self._consensus.applied_index
        writer = SnapshotWriter(request.table)
        for row in rows:
            if row is not None:
                writer.add(row)
            if turn.over:
                await turn.next()
        for frame in writer.frames(applied_index):
            yield frame

    async def Watch(
        self, request: pb.WatchRequest, context: Any
    ) -> AsyncIterator[pb.WatchResponse]:
        """Send tables, and then their changes."""
        tables, interval = watched_of(request), interval_of(request)
        events = self._watches.watch(
            tables, request.resume_token, interval, current_permissions(), current_turn()
        )
        writer = WatchWriter(tables)
        for message in writer.schemas():
            yield message
        async with aclosing(events):
            async for event in events:
                yield writer.encode(event)
