"""Checks a file's bytes against its CID as they arrive."""

from collections.abc import AsyncIterator

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.multiformats import parse_cid
from ipfs_cluster_node.core.unixfs import FileBuilder


async def verified(cid: str, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass bytes on, and fail at the end if they are not those of `cid`.

    All nodes chunk files the same way, so equal bytes give equal CIDs.

    Raises:
        ClusterError: MALFORMED_CID, BLOCK_MISMATCH.
    """
    try:
        wanted = parse_cid(cid)
    except ValueError as error:
        raise ClusterError(Reason.MALFORMED_CID, f"{cid[:80]!r} is not a CID: {error}") from error
    builder = FileBuilder()
    async for data in pieces:
        builder.feed(data)
        yield data
    _, root, size_bytes = builder.finish()
    if root != wanted:
        raise ClusterError(
            Reason.BLOCK_MISMATCH,
            f"the {size_bytes} bytes received are not those of {cid}; get it again, and see the "
            "nodes' logs",
        )
