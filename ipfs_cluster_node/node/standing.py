"""What a home directory is good for, where somebody wants to make a node in it once more."""

import asyncio
from typing import Final

import grpc

from ipfs_cluster_node.adapters.net.channels import Target
from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.node.files import load_files
from ipfs_cluster_node.node.identify import REMOVED_KEY
from ipfs_cluster_node.node.peers import PeerBook
from ipfs_cluster_node.v1 import health_pb2
from ipfs_cluster_node.v1.health_pb2_grpc import HealthServiceStub

ASK_SECONDS_MAX: Final = 3.0


async def refuse_taken(home: Home) -> None:
    """Refuse to make a node where one is already; a removed one is told apart if a master tells so.

    Raises:
        ClusterError: HOME_EXISTS, and what to do with what is there.
    """
    if not home.is_taken:
        return
    if await was_removed(home):
        raise ClusterError(
            Reason.HOME_EXISTS,
            f"the node in {home.path} was removed from its cluster for good; join as a new one "
            "with another --home, and keep this one until nothing of it is needed",
        )
    raise home.taken()


async def was_removed(home: Home) -> bool:
    """Whether some master that the node knows says that it was removed; False if none answers."""
    try:
        tls = load_files(home).tls
        targets = PeerBook(home.masters).targets()
    except (ClusterError, OSError, ValueError):
        return False
    return any(await asyncio.gather(*(_says_removed(target, tls) for target in targets)))


async def _says_removed(target: Target, tls: ClientTls) -> bool:
    address, node_id = target
    async with open_channel(address, tls=tls, node_id=node_id) as channel:
        try:
            await HealthServiceStub(channel).GetHealth(
                health_pb2.GetHealthRequest(), timeout=ASK_SECONDS_MAX
            )
        except grpc.aio.AioRpcError as rpc_error:
            error = error_from_rpc(rpc_error)
            return error.reason is Reason.CALLER_UNKNOWN and REMOVED_KEY in error.metadata
    return False
