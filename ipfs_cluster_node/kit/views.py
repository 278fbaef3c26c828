"""IPFS Kit's component names: the same kit, seen by subject. No logic of their own.

| Component | What answers |
| --- | --- |
| `ClusterManager` | all of the kit |
| `ClusterCoordinator` | `MembershipService`, `TaskDispatchService` |
| `ClusterStateSync` | the replicated state: `StateDeltaService` |
| `ClusterMonitor` | `HealthService` and the counts of the cluster's status |
| `ClusterAuthentication` | mutual TLS and UCAN: `AuthorizationService` |
| `ClusterDynamicRoles`, `RoleManager` | the nodes' roles |
"""

from typing import Any, Protocol

from ipfs_cluster_node.kit.results import Result


class Kit(Protocol):
    """What the views show."""

    role: str

    @property
    def node_id(self) -> str:
        """The PeerID of its node."""

    def __call__(self, method: str, **arguments: Any) -> Result:
        """Call a method by its name."""


class _View:
    def __init__(self, kit: Kit) -> None:
        """Show a kit."""
        self._kit = kit

    @property
    def node_id(self) -> str:
        """The PeerID of the kit's node."""
        return self._kit.node_id

    @property
    def role(self) -> str:
        """The role of the kit's node."""
        return self._kit.role


class ClusterCoordinator(_View):
    """Membership, consensus and tasks."""

    def get_cluster_status(self) -> Result:
        """The kit's `get_cluster_status`."""
        return self._kit("get_cluster_status")

    def submit_task(self, task_type: str, payload: dict[str, Any], **arguments: Any) -> Result:
        """The kit's `submit_cluster_task`."""
        return self._kit("submit_cluster_task", task_type=task_type, payload=payload, **arguments)

    def get_task_status(self, task_id: str) -> Result:
        """The kit's `get_task_status`."""
        return self._kit("get_task_status", task_id=task_id)

    def cancel_task(self, task_id: str) -> Result:
        """The kit's `cancel_task`."""
        return self._kit("cancel_task", task_id=task_id)

    def propose_config_change(self, key: str, value: object) -> Result:
        """The kit's `propose_config_change`."""
        return self._kit("propose_config_change", key=key, value=value)


class ClusterStateSync(_View):
    """The replicated state."""

    def get_nodes(self) -> Result:
        """The kit's `get_nodes`."""
        return self._kit("get_nodes")

    def get_tasks(self, **arguments: Any) -> Result:
        """The kit's `get_tasks`."""
        return self._kit("get_tasks", **arguments)


class ClusterMonitor(_View):
    """Health and counts."""

    def get_cluster_status(self) -> Result:
        """The kit's `get_cluster_status`."""
        return self._kit("get_cluster_status")

    def get_cluster_metrics(self, **arguments: Any) -> Result:
        """The kit's `get_cluster_metrics`."""
        return self._kit("get_cluster_metrics", **arguments)


class ClusterAuthentication(_View):
    """Tokens and identities."""

    def generate_auth_token(
        self, peer_id: str, capabilities: list[str], **arguments: Any
    ) -> Result:
        """The kit's `generate_auth_token`."""
        return self._kit(
            "generate_auth_token", peer_id=peer_id, capabilities=capabilities, **arguments
        )

    def verify_peer_identity(self, peer_id: str, presented_token: object) -> Result:
        """The kit's `verify_peer_identity`."""
        return self._kit("verify_peer_identity", peer_id=peer_id, presented_token=presented_token)


class RoleManager(_View):
    """The roles of nodes."""

    def evaluate_potential_roles(self) -> Result:
        """The kit's `evaluate_potential_roles`."""
        return self._kit("evaluate_potential_roles")

    def change_role(self, target_role: str, **arguments: Any) -> Result:
        """The kit's `change_role`."""
        return self._kit("change_role", target_role=target_role, **arguments)


class ClusterDynamicRoles(RoleManager):
    """The same."""


class ClusterManager(
    ClusterCoordinator, ClusterStateSync, ClusterMonitor, ClusterAuthentication, ClusterDynamicRoles
):
    """All of them."""

    def register_task_handler(self, task_type: str, handler_func: Any) -> bool:
        """Whether the kit's `register_task_handler` succeeded."""
        answer = self._kit("register_task_handler", task_type=task_type, handler_func=handler_func)
        return bool(answer["success"])
