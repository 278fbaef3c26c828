"""Calls of `GetHealth`: they tell whether this node was removed, and whether a master runs."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import grpc

from ipfs_cluster_node.access.identify import REMOVED_KEY
from ipfs_cluster_node.adapters.net.channels import Target
from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.errors import ClusterError, Reason, Trait
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.members import most_say_removed
from ipfs_cluster_node.core.model import Principal
from ipfs_cluster_node.node.files import load_files
from ipfs_cluster_node.v1 import health_pb2
from ipfs_cluster_node.v1.health_pb2_grpc import HealthServiceStub

ASK_SECONDS_MAX: Final = 3.0
"""How long an address may take to answer: no node has proved its identity there yet."""


async def check_home_free(home: Home) -> None:
    """Check that a node may be created in a home: it holds no node, and no other files.

    If it holds one, a known master is asked whether that was removed; the error then says so.

    Raises:
        ClusterError: HOME_EXISTS, HOME_DAMAGED, and what to do with what is there.
    """
    if home.is_taken and (home.left.exists() or await was_removed(home)):
        raise ClusterError(
            Reason.HOME_EXISTS,
            f"the node in {home.path} was removed from its cluster for good; join as a new one "
            "with another --home, and keep this one until nothing of it is needed",
        )
    home.check_free()


async def was_removed(home: Home) -> bool:
    """Whether a known master reports that the node was removed; False if none answers."""
    try:
        tls = load_files(home).tls
        targets = PeerBook(home.masters).targets()
    except (ClusterError, OSError, ValueError):
        return False
    heard = await asyncio.gather(*(ask_health(target, tls) for target in targets))
    return any(isinstance(each, ClusterError) and REMOVED_KEY in each.metadata for each in heard)


async def removed_by_most(masters: Iterable[Target], own: NodeId, tls: ClientTls) -> bool:
    """Whether most of the other masters say that this node was removed; each is asked itself."""
    targets = [target for target in masters if target[1] != own]
    heard = await asyncio.gather(*(ask_health(target, tls) for target in targets))
    said = dict.fromkeys((node_id for _, node_id in targets), False)
    for (_, node_id), answer in zip(targets, heard, strict=True):
        said[node_id] |= isinstance(answer, ClusterError) and REMOVED_KEY in answer.metadata
    return most_say_removed(said.values())


@dataclass(frozen=True, slots=True)
class Heard:
    """A master that runs."""

    master: Principal
    leader: str
    """The node that it says leads; empty if it knows none, or does not tell."""


async def masters_that_run(masters: Iterable[Principal], tls: ClientTls) -> list[Heard]:
    """Call masters that are believed lost; those that prove their identity in TLS run."""
    asked = [(master, endpoint) for master in masters for endpoint in master.endpoints]
    answers = await asyncio.gather(
        *(ask_health((endpoint, master.node_id), tls) for master, endpoint in asked)
    )
    heard: dict[NodeId, Heard] = {}
    for (master, _), answer in zip(asked, answers, strict=True):
        if isinstance(answer, health_pb2.GetHealthResponse):
            heard[master.node_id] = Heard(master, answer.raft.leader_node_id)
        elif not answer.reason.has(Trait.NO_ANSWER):
            heard.setdefault(master.node_id, Heard(master, ""))
    return list(heard.values())


async def ask_health(
    target: Target, tls: ClientTls, *, timeout: float = ASK_SECONDS_MAX
) -> health_pb2.GetHealthResponse | ClusterError:
    """Ask one node for its health; returns the error if that failed."""
    address, node_id = target
    try:
        async with open_channel(address, tls=tls, node_id=node_id) as channel:
            answer: health_pb2.GetHealthResponse = await HealthServiceStub(channel).GetHealth(
                health_pb2.GetHealthRequest(), timeout=timeout
            )
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error)
    except ClusterError as error:  # The address is malformed.
        return error
    return answer
