"""`ipfs_kit`: a cluster by the names of IPFS Kit's "Advanced Cluster Management".

A thin face over the client and a node that runs as a process of its own; docs/kit.md says what each
call does. Importing it starts nothing.
"""

from ipfs_cluster_node.kit.ipfs_kit import ipfs_kit
from ipfs_cluster_node.kit.results import KitError
from ipfs_cluster_node.kit.views import (
    ClusterAuthentication,
    ClusterCoordinator,
    ClusterDynamicRoles,
    ClusterManager,
    ClusterMonitor,
    ClusterStateSync,
    RoleManager,
)

__all__ = [
    "ClusterAuthentication",
    "ClusterCoordinator",
    "ClusterDynamicRoles",
    "ClusterManager",
    "ClusterMonitor",
    "ClusterStateSync",
    "KitError",
    "RoleManager",
    "ipfs_kit",
]
