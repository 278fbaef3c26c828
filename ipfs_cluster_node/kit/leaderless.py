"""Why a kit's node found no leader: the masters that don't answer, by the names of the kits."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final

from ipfs_cluster_node.client.sync import SyncClient
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.errors import ClusterError, Trait
from ipfs_cluster_node.core.ids import NodeId

ASKED_FOR: Final = timedelta(seconds=2)


def silent(client: SyncClient, masters: Mapping[NodeId, tuple[str, ...]]) -> Iterator[NodeId]:
    """Those of these masters that answer at none of their addresses."""

    def answers(node_id: NodeId) -> bool:
        for address in masters[node_id]:
            try:
                client.get_health(address, node_id, timeout=ASKED_FOR)
            except ClusterError as error:
                if error.reason.has(Trait.NO_ANSWER):
                    continue
            return True
        return False

    with ThreadPoolExecutor(max(1, len(masters))) as threads:
        for node_id, answered in zip(masters, threads.map(answers, masters), strict=True):
            if not answered:
                yield node_id


def without_leader(
    error: ClusterError,
    client: SyncClient,
    home: Home,
    here: Mapping[NodeId, tuple[str, str]],
    seconds: float,
) -> ClusterError:
    """Say which masters must be started, and how long there is for that.

    `home` knows the cluster's masters; `here` are those that this user made, with name and address.
    """
    from ipfs_cluster_node.cluster.peers import PeerBook

    masters: dict[NodeId, tuple[str, ...]] = {}
    for address, node_id in PeerBook(home.masters).targets():
        if node_id is not None:
            masters[node_id] = (*masters.get(node_id, ()), address)
    masters |= {node_id: (address,) for node_id, (_, address) in here.items()}
    named = "; ".join(
        f"{f'node_name {here[each][0]}' if each in here else each} at {', '.join(masters[each])}"
        for each in silent(client, masters)
    )
    if not named:
        return error
    return ClusterError(
        error.reason,
        f"no master led for {seconds:.0f} s: more than half of the cluster's masters must run, and "
        f"these don't answer: {named}. Start them at the same time, each in a program or thread of "
        "its own; ipfs_kit(…, timeout=SECONDS) waits longer",
    )
