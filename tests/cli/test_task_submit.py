"""`task submit`: what it asks of the client."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from ipfs_cluster_node.cli import task_commands
from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.core.model import ATTEMPT_COUNT_DEFAULT

DEFAULT: dict[str, Any] = {
    "inputs": [],
    "attempt_timeout": None,
    "task_timeout": None,
    "attempt_count_max": ATTEMPT_COUNT_DEFAULT,
    "priority": 0,
    "namespace": "default",
    "keep_result": False,
    "request_id": None,
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was submitted."""
    found: list[Any] = []

    class Client:
        on_failure = None

        async def submit_task(self, task_type: str, payload: Any, **options: Any) -> str:
            found.append((task_type, payload, options))
            return "t"

    def run_client(_profile: str | None, operation: Any) -> Any:
        return asyncio.run(operation(Client()))

    monkeypatch.setattr(task_commands, "run_client", run_client)
    return found


@pytest.mark.parametrize(
    ("arguments", "payload", "options"),
    [
        ([], b"", {}),
        (["--data", "x"], "x", {}),
        (["--sql", "SELECT 1"], {"sql": "SELECT 1"}, {}),
        (["--keep-result"], b"", {"keep_result": True}),
        (
            ["--attempt-timeout", "2s", "--task-timeout", "3s", "--attempt-count-max", "4"],
            b"",
            {
                "attempt_timeout": timedelta(seconds=2),
                "task_timeout": timedelta(seconds=3),
                "attempt_count_max": 4,
            },
        ),
        (
            ["--priority", "5", "--namespace", "team-a", "--request-id", "r"],
            b"",
            {"priority": 5, "namespace": "team-a", "request_id": "r"},
        ),
    ],
)
def test_a_task_is_submitted_with_all_that_was_asked(
    asked: list[Any], arguments: list[str], payload: Any, options: dict[str, Any]
) -> None:
    done = CliRunner().invoke(main, ["task", "submit", "echo", *arguments])
    assert done.exit_code == 0, done.output
    assert done.stdout == "t\n"
    assert asked == [("echo", payload, DEFAULT | options)]
