"""Each view passes its calls on to the kit, and does nothing else."""

from typing import Any

import pytest

from ipfs_cluster_node.kit import (
    ClusterAuthentication,
    ClusterCoordinator,
    ClusterDynamicRoles,
    ClusterManager,
    ClusterMonitor,
    ClusterStateSync,
    RoleManager,
)
from ipfs_cluster_node.kit.ipfs_kit import METHODS


class Noted:
    """Notes what it is called for."""

    role = "worker"
    node_id = "12D3"

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, method: str, **arguments: Any) -> dict[str, Any]:
        assert method in METHODS
        self.calls.append((method, arguments))
        return {"success": False, "operation": method}


def test_views_pass_calls_on() -> None:
    kit = Noted()
    coordinator, state = ClusterCoordinator(kit), ClusterStateSync(kit)
    monitor, authentication, roles = (
        ClusterMonitor(kit),
        ClusterAuthentication(kit),
        RoleManager(kit),
    )
    answers = [
        coordinator.get_cluster_status(),
        coordinator.submit_task("echo", {"a": 1}, priority=2),
        coordinator.get_task_status("t"),
        coordinator.cancel_task("t"),
        coordinator.propose_config_change("k", 1),
        state.get_nodes(),
        state.get_tasks(limit=1),
        monitor.get_cluster_status(),
        monitor.get_cluster_metrics(include_history=True),
        authentication.generate_auth_token("p", ["read"]),
        authentication.verify_peer_identity("p", "t"),
        roles.evaluate_potential_roles(),
        roles.change_role("worker", force=True),
    ]
    assert [answer["operation"] for answer in answers] == [method for method, _ in kit.calls]
    assert kit.calls[1] == (
        "submit_cluster_task",
        {"task_type": "echo", "payload": {"a": 1}, "priority": 2},
    )
    assert kit.calls[-1] == ("change_role", {"target_role": "worker", "force": True})


@pytest.mark.parametrize("view", [ClusterManager, ClusterDynamicRoles])
def test_views_know_their_node(view: Any) -> None:
    shown = view(Noted())
    assert (shown.node_id, shown.role) == ("12D3", "worker")


def test_the_manager_says_whether_a_handler_was_registered() -> None:
    assert ClusterManager(Noted()).register_task_handler("t", print) is False
