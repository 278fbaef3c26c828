"""BlockService."""

from collections.abc import AsyncIterator
from typing import Any

from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.content.contents import Contents
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.unixfs import BLOCK_BYTES_MAX
from ipfs_cluster_node.internal.v1 import blocks_pb2 as pb
from ipfs_cluster_node.internal.v1 import blocks_pb2_grpc


class BlockServicer(blocks_pb2_grpc.BlockServiceServicer):
    """Blocks from other masters."""

    def __init__(self, content: Contents, consensus: Consensus) -> None:
        self._content = content
        self._consensus = consensus

    async def PutBlocks(
        self, request_iterator: AsyncIterator[pb.PutBlocksRequest], context: Any
    ) -> pb.PutBlocksResponse:
        """Store blocks here: as a master, one that others may count on as a holder."""
        self._consensus.require_replica()
        return pb.PutBlocksResponse(
            block_count=await self._content.put_blocks(_blocks(request_iterator))
        )


async def _blocks(
    requests: AsyncIterator[pb.PutBlocksRequest],
) -> AsyncIterator[tuple[bytes, bytes]]:
    async for request in requests:
        if len(request.data) > BLOCK_BYTES_MAX:
            raise ClusterError(
                Reason.PAYLOAD_TOO_LARGE, f"a block has at most {BLOCK_BYTES_MAX} bytes"
            )
        yield request.cid, request.data
