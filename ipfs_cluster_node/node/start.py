"""Runs a node, after replacing its log if that is damaged."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.cluster.peers import add_masters
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSettings
from ipfs_cluster_node.core.endpoints import Endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.node.files import load_files
from ipfs_cluster_node.node.log_repair import LogRepair
from ipfs_cluster_node.node.node import Node


async def run_node(
    home: Home,
    settings: NodeSettings,
    on_ready: Callable[[NodeId, Endpoint], None],
    *,
    masters: Mapping[NodeId, tuple[str, ...]] = MappingProxyType({}),
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Serve until cancelled, in a locked home.

    `on_ready` is called once, with the node's identity and where it listens. `masters`, named by
    the operator with addresses, are kept, and asked first; a master accepts them only if its log,
    which names the others, is lost or names none.

    Raises:
        ClusterError: Why the node can't run, and the way out.
    """
    files = load_files(home)
    node_id = files.identity.node_id
    told = False

    def ready(bound: Endpoint) -> None:
        nonlocal told
        if not told:
            told = True
            on_ready(node_id, bound)

    is_master = settings.node.role == Role.MASTER
    if masters and not is_master:
        add_masters(home.masters, masters)
    while True:
        try:
            node = Node(home, settings, clock=clock)
            if masters and is_master and not node.take_masters(masters):
                # It would take them for masters that its log does not name yet.
                raise ClusterError(
                    Reason.CONFIG_INVALID,
                    "a master knows the others by its log, and that is whole; leave out --master",
                )
            masters = {}
            await node.run(ready)
            return
        except LogDamagedError as error:
            # Found at the start, or behind a full disk; or reported by others while it runs.
            damage = error.message
        if masters:
            add_masters(home.masters, masters)
            masters = {}
        await LogRepair(home, settings, files, damage, clock=clock).run(ready)
