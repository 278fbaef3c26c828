"""StateDeltaService."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ipfs_cluster_node.codec.tables import snapshot_frames, table_rows
from ipfs_cluster_node.services.context import current_reach
from ipfs_cluster_node.services.ports import StatePort
from ipfs_cluster_node.v1 import state_delta_pb2 as pb
from ipfs_cluster_node.v1 import state_delta_pb2_grpc


class StateDeltaServicer(state_delta_pb2_grpc.StateDeltaServiceServicer):
    """The state as Arrow tables."""

    def __init__(self, view: StatePort) -> None:
        """Serve this."""
        self._view = view

    async def GetSnapshot(
        self, request: pb.GetSnapshotRequest, context: Any
    ) -> AsyncIterator[pb.GetSnapshotResponse]:
        """Send one table whole, as it is at this moment."""
        reach = current_reach()
        rows = table_rows(
            request.table,
            self._view.read_state(),
            self._view.voters,
            caller=reach.caller.did,
            allows=reach.allows,
        )
        applied_index = self._view.applied_index
        frames = await asyncio.to_thread(snapshot_frames, rows, applied_index)
        for frame in frames:
            yield frame
