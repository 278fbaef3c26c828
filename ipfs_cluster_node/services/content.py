"""ContentService."""

from collections.abc import AsyncIterator
from typing import Any, Final

from ipfs_cluster_node.access.context import CallerClass, current_caller, current_permissions
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.content.contents import Contents
from ipfs_cluster_node.cluster.pages import page_of_items
from ipfs_cluster_node.codec.members import content_to_proto
from ipfs_cluster_node.codec.metadata import ATTEMPT_KEY
from ipfs_cluster_node.codec.pages import page_of
from ipfs_cluster_node.codec.tasks import attempt_from_text, cid_text, prefix_of, request_id_of
from ipfs_cluster_node.codec.views import REMOVED_CONTENT
from ipfs_cluster_node.core.authorization import content_args
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.ids import NO_TASK, TaskId
from ipfs_cluster_node.core.model import Content
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.v1 import content_pb2 as pb
from ipfs_cluster_node.v1 import content_pb2_grpc

DATA_BYTES_MAX: Final = 1024 * 1024
NAME_CHARS_MAX: Final = 255
BLOCKS_PER_REQUEST_MAX: Final = 64
WORKERS: Final = (CallerClass.NODE, CallerClass.MASTER)


class ContentServicer(content_pb2_grpc.ContentServiceServicer):
    """Files by CID."""

    def __init__(self, content: Contents, consensus: Consensus) -> None:
        self._content = content
        self._consensus = consensus

    async def AddContent(
        self, request_iterator: AsyncIterator[pb.AddContentRequest], context: Any
    ) -> pb.AddContentResponse:
        """Store a file durably."""
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("message") != "header":
            raise invalid_field("message", "the header comes first")
        header = first.header
        if len(header.name) > NAME_CHARS_MAX or not header.name.isprintable():
            raise invalid_field("header.name", f"at most {NAME_CHARS_MAX} printable characters")
        request_id_of(header.request_id)
        size_bytes = header.size_bytes if header.HasField("size_bytes") else None
        if size_bytes is not None and size_bytes < 0:
            raise invalid_field("header.size_bytes", "0 or more; leave it unset if it is not known")
        added = await self._content.add_content(
            _chunks(request_iterator, size_bytes),
            name=header.name,
            size_bytes=size_bytes,
            caller=current_caller().did,
            goes_with=_task_of(context),
        )
        return pb.AddContentResponse(
            cid=added.cid, size_bytes=added.size_bytes, holder_node_ids=added.holders
        )

    async def GetContent(
        self, request: pb.GetContentRequest, context: Any
    ) -> AsyncIterator[pb.GetContentResponse]:
        """Read a file."""
        length = request.length_bytes if request.HasField("length_bytes") else None
        if request.offset_bytes < 0 or (length or 0) < 0:
            raise invalid_field("offset_bytes", "0 or more, and so length_bytes")
        async for data in self._content.get_content(
            cid_text(request.cid, "cid"), offset=request.offset_bytes, length=length
        ):
            yield pb.GetContentResponse(data=data)

    async def StatContent(
        self, request: pb.StatContentRequest, context: Any
    ) -> pb.StatContentResponse:
        """Return what the log knows of a file."""
        content = self._content.stat_content(cid_text(request.cid, "cid"))
        return pb.StatContentResponse(content=_shown(self._consensus.read_state(), content))

    async def ListContent(
        self, request: pb.ListContentRequest, context: Any
    ) -> pb.ListContentResponse:
        """List the files."""
        page = page_of(request, "content")
        prefix = prefix_of(request.cid_prefix, "cid_prefix")
        state = self._consensus.read_state()
        permissions = current_permissions()
        # Iterated, not copied: files may be added or removed while the list is made.
        shown, following = await page_of_items(
            (
                (_shown(state, content), content.cid)
                if permissions.allows(content_args(content.cid, content, state.tasks.get))
                else None
                for content in state.contents.listed(prefix, page.after)
            ),
            page,
        )
        return pb.ListContentResponse(contents=shown, next_page_token=following)

    async def RemoveContent(
        self, request: pb.RemoveContentRequest, context: Any
    ) -> pb.RemoveContentResponse:
        """Remove a file."""
        removed = await self._content.remove_content(
            cid_text(request.cid, "cid"),
            caller=current_caller().did,
            request_id=request_id_of(request.request_id),
        )
        return REMOVED_CONTENT.encode(removed)

    async def KeepContent(
        self, request: pb.KeepContentRequest, context: Any
    ) -> pb.KeepContentResponse:
        """Keep a task's result until it is removed."""
        await self._content.keep_content(
            cid_text(request.cid, "cid"),
            caller=current_caller().did,
            request_id=request_id_of(request.request_id),
        )
        return pb.KeepContentResponse()

    async def GetBlocks(
        self, request: pb.GetBlocksRequest, context: Any
    ) -> AsyncIterator[pb.GetBlocksResponse]:
        """Read blocks stored here."""
        if not 1 <= len(request.cids) <= BLOCKS_PER_REQUEST_MAX:
            raise invalid_field("cids", f"1 to {BLOCKS_PER_REQUEST_MAX}")
        async for cid, data in self._content.get_blocks(request.cids, root=request.root):
            yield pb.GetBlocksResponse(cid=cid, data=data)


def _task_of(context: Any) -> TaskId:
    """The task whose worker adds its result; empty for a file of anybody else."""
    if current_caller().kind not in WORKERS:
        return NO_TASK
    text = dict(context.invocation_metadata() or ()).get(ATTEMPT_KEY, "")
    return attempt_from_text(text).task_id if text else NO_TASK


def _shown(state: ClusterState, content: Content) -> pb.Content:
    holders = state.contents.holders_of(content)
    nodes = {n: node for n in holders if (node := state.members.node(n)) is not None}
    return content_to_proto(content, holders, nodes, needed_by=state.needed_by(content) or "")


async def _chunks(
    requests: AsyncIterator[pb.AddContentRequest], size_bytes: int | None
) -> AsyncIterator[bytes]:
    come_bytes = 0
    async for request in requests:
        if request.WhichOneof("message") != "data":
            raise invalid_field("message", "only data comes after the header")
        if len(request.data) > DATA_BYTES_MAX:
            raise ClusterError(
                Reason.PAYLOAD_TOO_LARGE, f"a chunk has at most {DATA_BYTES_MAX} bytes"
            )
        come_bytes += len(request.data)
        # Permission to add the file was decided by the announced size.
        if size_bytes is not None and come_bytes > size_bytes:
            raise ClusterError(
                Reason.INVALID_ARGUMENT,
                f"more bytes came, {size_bytes} were announced; send it again",
            )
        yield request.data
