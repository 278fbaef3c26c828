"""ContentService."""

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

from ipfs_cluster_node.access.context import (
    CallerClass,
    Permissions,
    current_caller,
    current_permissions,
)
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.content.contents import Contents
from ipfs_cluster_node.cluster.pages import page_of_items
from ipfs_cluster_node.codec.members import content_to_proto
from ipfs_cluster_node.codec.metadata import ATTEMPT_KEY
from ipfs_cluster_node.codec.pages import page_of
from ipfs_cluster_node.codec.tasks import (
    attempt_from_text,
    cid_text,
    namespace_of,
    namespaces_from_proto,
    prefix_of,
    request_id_of,
)
from ipfs_cluster_node.codec.views import REMOVED_CONTENT
from ipfs_cluster_node.core.authorization import (
    ANY,
    CONTENT_READ,
    TASK_READ,
    alternatives,
    content_args,
    task_args,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.file_namespaces import kept_namespaces_of
from ipfs_cluster_node.core.ids import NO_TASK, TaskId
from ipfs_cluster_node.core.model import DEFAULT_NAMESPACE, Content
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.ucan.commands import Command
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
            namespace=namespace_of(header, "header.namespace") or DEFAULT_NAMESPACE,
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
        state, permissions = self._consensus.read_state(), current_permissions()
        inside = _readable(state, content, permissions)
        return pb.StatContentResponse(content=_shown(state, content, inside, permissions))

    async def ListContent(
        self, request: pb.ListContentRequest, context: Any
    ) -> pb.ListContentResponse:
        """List the files."""
        page = page_of(request, "content")
        prefix = prefix_of(request.cid_prefix, "cid_prefix")
        state = self._consensus.read_state()
        permissions = current_permissions()
        in_namespace = namespaces_from_proto(request.namespace_pattern)

        def shown_of(content: Content) -> tuple[pb.Content, str] | None:
            if not permissions.allows(content_args(content.cid, content, state.tasks.get)):
                return None
            inside = _readable(state, content, permissions)
            if in_namespace is not None and not any(map(in_namespace, inside)):
                return None
            return _shown(state, content, inside, permissions), content.cid

        # Iterated, not copied: files may be added or removed while the list is made.
        shown, following = await page_of_items(
            map(shown_of, state.contents.listed(prefix, page.after)), page
        )
        return pb.ListContentResponse(contents=shown, next_page_token=following)

    async def RemoveContent(
        self, request: pb.RemoveContentRequest, context: Any
    ) -> pb.RemoveContentResponse:
        """Remove a file."""
        cid = cid_text(request.cid, "cid")
        namespace, among = self._where(cid, request)
        permissions = current_permissions()
        try:
            removed = await self._content.remove_content(
                cid,
                namespace=namespace,
                among=among,
                caller=permissions.caller.did,
                request_id=request_id_of(request.request_id),
            )
        except ClusterError as error:
            if error.reason is Reason.CONTENT_NEEDED:
                raise self._needed(cid, permissions) from None
            raise
        return REMOVED_CONTENT.encode(
            replace(removed, left_namespaces=self._left(cid, permissions))
        )

    def _where(
        self, cid: str, request: pb.KeepContentRequest | pb.RemoveContentRequest
    ) -> tuple[str, tuple[str, ...]]:
        """The namespace that a request names; without one, those in which it is allowed."""
        namespace, permissions = namespace_of(request, "namespace"), current_permissions()
        if namespace:
            return namespace, ()
        state = self._consensus.state()
        content = state.contents.get(cid)
        among = () if content is None else _readable(state, content, permissions)
        # Without any, all are meant: it may be in others than it was judged by a moment ago.
        if not among and not permissions.allows(content_args(cid, None)):
            raise ClusterError(
                Reason.CONTENT_NOT_FOUND, f"the cluster has no file {cid}; see `content list`"
            )
        return "", among

    def _left(self, cid: str, permissions: Permissions) -> tuple[str, ...]:
        """The namespaces that a file is in, of those in which the caller may read files."""
        state = self._consensus.state()
        content = state.contents.get(cid)
        return () if content is None else _readable(state, content, permissions, CONTENT_READ)

    def _needed(self, cid: str, permissions: Permissions) -> ClusterError:
        """Why a file can't be removed; names the task only to a caller that may read it."""
        state = self._consensus.state()
        content = state.contents.get(cid)
        task_id = None if content is None else state.needed_by(content)
        if task_id is not None and _may_read(state, task_id, permissions):
            said = f"task {task_id}, which has not ended, needs {cid}; wait for it, or cancel it"
        else:
            said = f"a task of others, which has not ended, needs {cid}; wait for its end"
        return ClusterError(Reason.CONTENT_NEEDED, said)

    async def KeepContent(
        self, request: pb.KeepContentRequest, context: Any
    ) -> pb.KeepContentResponse:
        """Keep a task's result until it is removed."""
        cid = cid_text(request.cid, "cid")
        namespace, among = self._where(cid, request)
        await self._content.keep_content(
            cid,
            namespace=namespace,
            among=among,
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


def _readable(
    state: ClusterState, content: Content, permissions: Permissions, command: Command | None = None
) -> tuple[str, ...]:
    """The namespaces of a file in which the method's command, or another, allows it."""
    ways = alternatives(content_args(content.cid, content, state.tasks.get))
    allows = partial(permissions.allows_under, command) if command else permissions.allows
    allowed = (str(args["namespace"]) for args in ways if allows(args))
    return tuple(namespace for namespace in allowed if namespace != ANY)


def _may_read(state: ClusterState, task_id: TaskId, permissions: Permissions) -> bool:
    args = task_args(state.tasks.get(task_id), permissions.caller.did)
    return permissions.allows_under(TASK_READ, args)


def _shown(
    state: ClusterState, content: Content, inside: tuple[str, ...], permissions: Permissions
) -> pb.Content:
    holders = state.contents.holders_of(content)
    nodes = {n: node for n in holders if (node := state.members.node(n)) is not None}
    kept_in = kept_namespaces_of(content)
    kept = tuple(each for each in inside if each in kept_in)
    needed_by = state.needed_by(content)
    needed_by_others = needed_by is not None and not _may_read(state, needed_by, permissions)
    goes_with = content.goes_with if len(kept) < len(inside) or not inside else NO_TASK
    return content_to_proto(
        content,
        holders,
        nodes,
        goes_with=goes_with if goes_with and _may_read(state, goes_with, permissions) else "",
        needed_by="" if needed_by is None or needed_by_others else needed_by,
        needed_by_others=needed_by_others,
        namespaces=inside,
        kept_namespaces=kept,
    )


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
