"""What a kit's methods ask of the client, and what they make of its answers."""

import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import Liveness, Role, TaskState
from ipfs_cluster_node.core.views import (
    ListedFailure,
    ListedNode,
    ListedResult,
    ListedSpec,
    ListedTask,
    TaskStatus,
)
from ipfs_cluster_node.kit import KitError, ipfs_kit
from ipfs_cluster_node.kit.handlers import handler_file
from tests.kit import echoing

LIMIT = timedelta(seconds=3)
NODES = [
    ListedNode(node_id="m", role=Role.MASTER, liveness=Liveness.ALIVE, leader=True),
    ListedNode(node_id="w", role=Role.WORKER, liveness=Liveness.DEAD),
]
TASK = ListedTask(
    task_id="t",
    spec=ListedSpec(task_type="echo", priority=4),
    status=TaskStatus(state=TaskState.RUNNING, submitted_at_ms=1500, attempt=2, node_id="w"),
)


class Client:
    """Keeps what it was asked; `error`, if there is one, is its answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.error: ClusterError | None = None
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, timeout: timedelta, **options: Any) -> Any:
            assert timeout == LIMIT, name
            self.asked.append((name, arguments, options))
            if self.error is not None:
                raise self.error
            return ANSWERS[name]

        return call

    def close(self) -> None:
        self.closed = True


ANSWERS: dict[str, Any] = {
    "cancel_task": None,
    "get_cluster_status": SimpleNamespace(
        cluster_name="c",
        cluster_id="i",
        leader_node_id="m",
        term=5,
        task_counts={TaskState.SUCCEEDED: 2},
    ),
    "get_task": TASK,
    "list_nodes": NODES,
    "list_tasks": [TASK],
    "propose_config": None,
    "submit_task": "t",
}


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def kit(client: Client) -> ipfs_kit:
    kit = ipfs_kit(metadata={"role": "worker"}, timeout=LIMIT.total_seconds())
    of_any: Any = client
    kit._client = of_any
    return kit


@pytest.mark.parametrize(
    ("method", "arguments", "asked"),
    [
        ("get_task_status", {"task_id": "t"}, ("get_task", ("t",), {})),
        ("cancel_task", {"task_id": "t"}, ("cancel_task", ("t",), {})),
        ("propose_config_change", {"key": "k", "value": 5}, ("propose_config", ({"k": "5"},), {})),
        ("get_nodes", {}, ("list_nodes", (), {})),
        (
            "get_tasks",
            {"status_filter": "completed", "type_filter": "echo", "limit": 7},
            ("list_tasks", (), {"states": [TaskState.SUCCEEDED], "task_type": "echo", "limit": 7}),
        ),
        ("get_tasks", {}, ("list_tasks", (), {"states": [], "task_type": "", "limit": 100})),
        (
            "submit_cluster_task",
            {"task_type": "echo", "payload": {"a": 1}, "priority": 4, "timeout": 60},
            (
                "submit_task",
                ("echo", {"a": 1}),
                {"priority": 4, "task_timeout": timedelta(minutes=1)},
            ),
        ),
        (
            "create_task",
            {"task_type": "echo", "parameters": {"a": 1}},
            ("submit_task", ("echo", {"a": 1}), {"priority": 1, "task_timeout": None}),
        ),
        ("ipfs_kit_ready", {}, ("get_cluster_status", (), {})),
    ],
)
def test_a_method_asks_for_just_this_within_its_time(
    kit: ipfs_kit,
    client: Client,
    method: str,
    arguments: dict[str, Any],
    asked: tuple[str, tuple[Any, ...], dict[str, Any]],
) -> None:
    assert kit(method, **arguments)["success"] is True
    assert client.asked == [asked]


def test_a_status_counts_by_the_words_of_the_kit(kit: ipfs_kit) -> None:
    status = kit.get_cluster_status()
    assert status["success"] is True
    assert (status["cluster_id"], status["leader"], status["term"]) == ("c", "m", 5)
    assert status["is_master"] is False
    assert status["task_statistics"] == {"completed": 2}
    assert [(n["id"], n["status"], n["is_leader"]) for n in status["nodes"]] == [
        ("m", "online", True),
        ("w", "offline", False),
    ]
    assert [t["task_id"] for t in status["tasks"]] == ["t"]
    workers = kit.get_nodes(role_filter="worker")
    assert ([n["id"] for n in workers["nodes"]], workers["count"]) == (["w"], 1)


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (TASK.status, {"status": "running", "created_at": 1.5, "completed_at": None}),
        (TaskStatus(state=None), {"status": "unknown"}),
        (
            TaskStatus(
                state=TaskState.SUCCEEDED,
                finished_at_ms=2500,
                result=ListedResult(
                    data=b'{"a": 1}', content_type="application/json", cid="bafy", size_bytes=9
                ),
            ),
            {
                "status": "completed",
                "completed_at": 2.5,
                "result": {"a": 1},
                "result_cid": "bafy",
            },
        ),
        (
            TaskStatus(state=TaskState.FAILED, failure=ListedFailure(reason=Reason.TASK_TIMED_OUT)),
            {"status": "timeout", "failure": {"reason": "TASK_TIMED_OUT", "message": ""}},
        ),
        (
            TaskStatus(state=TaskState.FAILED, failure=ListedFailure(reason=Reason.SQL_FAILED)),
            {"status": "failed", "failure": {"reason": "SQL_FAILED", "message": ""}},
        ),
        # Its last attempt failed, and it will be tried again.
        (
            TaskStatus(state=TaskState.PENDING, failure=ListedFailure(reason=Reason.SQL_FAILED)),
            {"status": "pending"},
        ),
    ],
)
def test_a_task_is_shown_as_it_is(
    kit: ipfs_kit, monkeypatch: pytest.MonkeyPatch, status: TaskStatus, shown: dict[str, Any]
) -> None:
    monkeypatch.setitem(ANSWERS, "get_task", ListedTask(task_id="t", status=status))
    answer = kit.get_task_status("t")
    assert {name: answer.get(name) for name in shown} == shown
    assert ("failure" in answer) == ("failure" in shown)


def task(name: str, reason: Reason) -> ListedTask:
    status = TaskStatus(state=TaskState.FAILED, failure=ListedFailure(reason=reason))
    return ListedTask(task_id=name, status=status)


def test_tasks_are_listed_by_each_status_that_they_are_shown_with(
    kit: ipfs_kit, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`timeout` was shown, and refused as a filter."""
    failed = [task("a", Reason.SQL_FAILED), task("b", Reason.TASK_TIMED_OUT)]
    monkeypatch.setitem(ANSWERS, "list_tasks", failed)
    for status, expected in (("timeout", ["b"]), ("failed", ["a"])):
        listed = kit.get_tasks(status_filter=status)
        assert [each["task_id"] for each in listed["tasks"]] == expected
        assert {each["status"] for each in listed["tasks"]} == {status}
        assert listed["count"] == 1
        assert client.asked[-1][2]["states"] == [TaskState.FAILED]
    refused = kit.get_tasks(status_filter="asleep")
    assert refused["error"].endswith("completed, failed, cancelled, timeout")


def test_a_filter_finds_tasks_behind_those_it_leaves_out(
    kit: ipfs_kit, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_the_cluster = [task(str(n), Reason.SQL_FAILED) for n in range(25)]
    of_the_cluster += [task("late", Reason.TASK_TIMED_OUT), task("later", Reason.TASK_TIMED_OUT)]

    def list_tasks(*, limit: int, **_asked: Any) -> list[ListedTask]:
        client.asked.append(("list_tasks", (), {"limit": limit}))
        return of_the_cluster[:limit]

    monkeypatch.setattr(client, "list_tasks", list_tasks, raising=False)
    listed = kit.get_tasks(status_filter="timeout", limit=1)
    assert [each["task_id"] for each in listed["tasks"]] == ["late"]
    assert [each[2]["limit"] for each in client.asked] == [1, 10, 100]
    client.asked.clear()
    assert kit.get_tasks(status_filter="failed", limit=2)["count"] == 2
    assert [each[2]["limit"] for each in client.asked] == [2]


def test_a_kit_whose_node_died_is_not_ready(kit: ipfs_kit, client: Client) -> None:
    node: Any = SimpleNamespace(pid=5, why_ended=lambda: "it died", stop=lambda: None)
    kit._node = node
    assert kit.ipfs_kit_ready()["ready"] is True
    node.pid = None
    answer = kit.ipfs_kit_ready()
    assert (answer["success"], answer["ready"], answer["why"]) == (True, False, "it died")


def test_a_method_called_by_its_name_takes_its_arguments_in_order(
    kit: ipfs_kit, client: Client
) -> None:
    assert kit("get_task_status", "t")["success"] is True
    assert kit("create_task", "echo", {"a": 1}, priority=4)["success"] is True
    assert client.asked == [
        ("get_task", ("t",), {}),
        ("submit_task", ("echo", {"a": 1}), {"priority": 4, "task_timeout": None}),
    ]
    answer = kit("get_task_status", "t", "u")
    assert answer["error_type"] == "validation_error"


@pytest.mark.parametrize("priority", [10, -1, True, 1.5, "1", None])
def test_a_wrong_priority_is_told_with_what_it_may_be(kit: ipfs_kit, priority: Any) -> None:
    answer = kit.submit_cluster_task("echo", {}, priority=priority)
    told = f"priority is {priority!r}; give a whole number from 0 to 9"
    assert (answer["error"], answer["error_type"]) == (told, "validation_error")


def test_a_wrong_role_is_told_with_those_there_are(kit: ipfs_kit) -> None:
    for answer in (kit.get_nodes(role_filter="mster"), kit.change_role("mster")):
        assert answer["error"] == "Invalid role: mster; give master, worker, leecher"


def test_a_peer_that_is_none_is_told_where_peers_are_listed(kit: ipfs_kit) -> None:
    kit._profile = SimpleNamespace()  # type: ignore[assignment]
    for answer in (kit.generate_auth_token("Qm"), kit.verify_peer_identity("Qm", "C")):
        assert answer["error"].endswith("get_nodes shows that of each node")


@pytest.mark.parametrize(
    ("reason", "error_type", "recoverable"),
    [
        (Reason.UNREACHABLE, "connection_error", True),
        (Reason.OVERLOADED, "connection_error", True),
        (Reason.DEADLINE_EXCEEDED, "timeout_error", True),
        (Reason.NOT_DELEGATED, "permission_error", False),
        (Reason.TASK_NOT_FOUND, "content_not_found", False),
        (Reason.INVALID_ARGUMENT, "validation_error", False),
        (Reason.CONFIG_INVALID, "configuration_error", False),
        (Reason.TASK_FINISHED, "validation_error", False),
    ],
)
def test_a_failure_says_of_what_kind_it_is(
    kit: ipfs_kit, client: Client, *, reason: Reason, error_type: str, recoverable: bool
) -> None:
    client.error = ClusterError(reason, "why")
    answer = kit.get_task_status("t")
    assert (answer["success"], answer["error"]) == (False, "why")
    assert (answer["error_type"], answer["recoverable"]) == (error_type, recoverable)
    assert answer["reason"] == reason


def test_a_closed_kit_says_so(kit: ipfs_kit, client: Client) -> None:
    assert kit.change_role("worker")["error_type"] == "not_supported"  # It has no node.
    assert kit.stop_cluster_manager()["success"] is True
    assert client.closed
    assert "closed" in kit.get_cluster_status()["error"]
    assert client.asked == []


def test_what_runs_again_or_imports_beside_it_is_no_handler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside.py").write_text("from . import other\n\n\ndef f(payload):\n    pass\n")
    beside = ModuleType("beside")
    beside.__file__ = str(tmp_path / "beside.py")
    monkeypatch.setitem(sys.modules, "beside", beside)
    code = "def f(payload):\n    pass\n"
    exec(compile(code, beside.__file__, "exec"), beside.__dict__)
    with pytest.raises(KitError, match="imports what is beside it"):
        handler_file("t", beside.f)
    monkeypatch.setattr(echoing, "__name__", "__main__")
    with pytest.raises(KitError, match="in the main program"):
        handler_file("t", echoing.doubled)
