"""WorkerService."""

from collections.abc import AsyncIterator
from typing import Any

from ipfs_cluster_node.access.context import current_caller
from ipfs_cluster_node.cluster.worker_sessions import WorkerSessions
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb
from ipfs_cluster_node.worker.v1 import worker_pb2_grpc


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """The sessions of workers."""

    def __init__(self, sessions: WorkerSessions) -> None:
        self._sessions = sessions

    def WorkerSession(
        self, request_iterator: AsyncIterator[pb.WorkerSessionRequest], context: Any
    ) -> AsyncIterator[pb.WorkerSessionResponse]:
        """Serve a worker's session."""
        return self._sessions.worker_session(current_caller().node_id, request_iterator)
