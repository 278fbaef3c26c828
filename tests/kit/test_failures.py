"""Without a master every method fails within its time, and says so; what is closed stays closed."""

import inspect
from pathlib import Path

import pytest

from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.client.sync import SyncClient
from ipfs_cluster_node.kit import ipfs_kit
from ipfs_cluster_node.kit.ipfs_kit import METHODS
from ipfs_cluster_node.kit.results import NOT_SUPPORTED, ErrorType
from tests.support.kits import run_script

SECONDS_MAX = 10.0
ARGUMENTS = {
    "task_type": "echo",
    "payload": {},
    "task_id": "0" * 32,
    "key": "user.a",
    "value": 1,
    "peer_id": "12D3KooWDhWxtvTnyMeS5HYtW77Nkh8NG6Eb7pAkCsvjQkaN1pnH",
    "presented_token": "C",
    "target_role": "worker",
    "handler_func": None,
}

SCRIPT = f"""
import json, os, signal, time
from ipfs_cluster_node.kit import ipfs_kit
from ipfs_cluster_node.kit.ipfs_kit import METHODS
import inspect
kit = ipfs_kit(role="master", metadata={{"cluster_name": "c"}}, enable_cluster_management=True, timeout=3)
token = kit.generate_auth_token(kit.node_id, ["read"])
assert kit.verify_peer_identity(kit.node_id, token)["verified"] is True
os.kill(kit.node_pid, signal.SIGKILL)
arguments = {ARGUMENTS!r} | {{"peer_id": kit.node_id, "presented_token": token}}
said = {{}}
for name in sorted(METHODS - {{"stop_cluster_manager"}}):
    wanted = [
        p.name for p in inspect.signature(getattr(kit, name)).parameters.values()
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    began = time.monotonic()
    answer = kit(name, **{{each: arguments[each] for each in wanted}})
    said[name] = answer | {{"seconds": time.monotonic() - began}}
print(json.dumps(said))
"""


@pytest.mark.usefixtures("one_at_a_time")
def test_with_every_master_stopped_each_method_fails_in_time(tmp_path: Path) -> None:
    said = run_script(SCRIPT, tmp_path, seconds=SECONDS_MAX * len(METHODS))
    assert set(said) == METHODS - {"stop_cluster_manager"}
    for name, answer in said.items():
        assert answer["success"] is False, name
        assert answer["error_type"] in set(ErrorType), name
        assert answer["error"], name
        assert answer["operation"] == name
        assert answer["seconds"] < SECONDS_MAX, name
    unreachable = {n for n in said if n not in NOT_SUPPORTED and n != "register_task_handler"}
    for name in unreachable:
        assert said[name]["error_type"] in ("connection_error", "timeout_error"), said[name]
        assert said[name]["recoverable"] is True, said[name]


def test_without_cluster_management_nothing_succeeds() -> None:
    kit = ipfs_kit(metadata={"role": "master"})
    assert kit.cluster_manager is None
    for name in METHODS - {"stop_cluster_manager"}:
        wanted = inspect.signature(getattr(kit, name)).parameters.values()
        needed = [p.name for p in wanted if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
        answer = kit(name, **{each: ARGUMENTS[each] for each in needed})
        assert answer["success"] is False
        expected = (
            {"not_supported"}
            if name in NOT_SUPPORTED
            else {"configuration_error", "validation_error"}
        )
        assert answer["error_type"] in expected, answer


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("submit_cluster_task", {"task_type": "", "payload": {}}, "Task type must be specified"),
        (
            "submit_cluster_task",
            {"task_type": "echo", "payload": 1},
            "Payload must be a dictionary",
        ),
        ("change_role", {"target_role": "boss"}, "Invalid role: boss"),
        ("get_task_status", {}, "task_id"),
        ("make_coffee", {}, "no method"),
        ("close", {}, "no method"),
        ("__init__", {}, "no method"),
    ],
)
def test_wrong_calls_are_answered(method: str, arguments: dict[str, object], words: str) -> None:
    answer = ipfs_kit()(method, **arguments)
    assert answer["success"] is False
    assert answer["error_type"] == "validation_error"
    assert words in answer["error"]


def test_values_that_no_request_can_hold_are_answered() -> None:
    """Each once raised what Python says, instead of a result."""
    kit = ipfs_kit()
    kit._client = SyncClient(lambda: Client(Connection([("127.0.0.1:1", None)], None)))
    try:
        for answer in (
            kit.propose_config_change("user.a", 10**5000),
            kit.propose_config_change("user.a", "\udcff"),
            kit.submit_cluster_task("echo", {}, priority=10**5000),
            kit.submit_cluster_task("echo", {}, timeout=1e-9),
        ):
            assert (answer["success"], answer["error_type"]) == (False, "validation_error"), answer
    finally:
        kit.close()
