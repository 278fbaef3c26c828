"""Files that would be lost with one node: no other master holds them."""

from ipfs_cluster_node.access.turns import current_turn
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.state import ClusterState


async def check_not_last_holder(state: ClusterState, node_id: NodeId) -> None:
    """Check that each file held by a node is also held by another master.

    Other members are no copy: nobody reads files from them, and a worker is named as a holder of
    its results, which it uploads and does not keep.

    Raises:
        ClusterError: FILES_AT_RISK.
    """
    turn = current_turn()
    others = {master.node_id for master in state.members.masters()} - {node_id}
    count, example = 0, ""
    for content in state.contents.listed():  # In slices: others may come and go between them.
        if node_id in content.holders and others.isdisjoint(content.holders):
            count, example = count + 1, example or content.cid
        if turn.over:
            await turn.next()
    if count:
        files = "1 file is" if count == 1 else f"{count} files are"
        raise ClusterError(
            Reason.FILES_AT_RISK,
            f"{files} held by {node_id} and no other master, and would be lost with it: "
            f"{example} for one; read each and add it again (`content get`, `content add`), which "
            "puts it on two masters, "
            "or give them up with --lose-files (`lose_files` of the request)",
            metadata={"file_count": str(count)},
        )
