"""A kit's node: the same after a restart, joined by token, with handlers, ended with its program."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ipfs_cluster_node.kit import KitError, ipfs_kit
from ipfs_cluster_node.kit.results import ErrorType, Result
from tests.kit import echoing
from tests.support.kits import kit_environment

SECONDS_MAX = 30.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in kit_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def master(folder: Path) -> Iterator[ipfs_kit]:
    with made("master") as kit:
        yield kit


def made(role: str, **more: object) -> ipfs_kit:
    metadata = {"role": role, "cluster_name": "c", "enable_cluster_management": True, **more}
    return ipfs_kit(metadata=metadata)


def ended(kit: ipfs_kit, task_id: str) -> Result:
    until = time.monotonic() + SECONDS_MAX
    while (task := kit.get_task_status(task_id))["status"] in ("pending", "running"):
        assert time.monotonic() < until
        time.sleep(0.05)
    return task


def test_a_worker_joins_runs_handlers_and_is_the_same_after_a_restart(master: ipfs_kit) -> None:
    with made("worker", master_addresses=[master.node_address]) as worker:
        assert master.get_nodes(role_filter="worker")["count"] == 1
        first = worker.node_id
        assert psutil.Process(worker.node_pid).ppid() == os.getpid()
        registered = worker.register_task_handler("doubled", echoing.doubled)
        assert registered["success"] is True
        submitted = master.submit_cluster_task("doubled", {"number": 21})
        task = ended(master, submitted["task_id"])
        assert (task["status"], task["result"]) == ("completed", {"number": 42})
        assert master.cancel_task(submitted["task_id"])["success"] is False  # It has ended.
        assert master.propose_config_change("user.a", True)["value"] == "true"
        pid = worker.node_pid
        assert worker.stop_cluster_manager()["success"] is True
        assert worker.cluster_manager is None
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert worker.ipfs_kit_ready()["success"] is False
    with made("worker") as again:
        assert again.node_id == first
        assert again.ipfs_kit_ready()["ready"] is True


@pytest.mark.parametrize("function", [echoing.alias, len, "doubled", lambda payload: payload])
def test_a_function_without_a_file_of_its_own_is_no_handler(
    function: object, master: ipfs_kit
) -> None:
    with made("worker") as worker:
        answer = worker.register_task_handler("t", function)  # type: ignore[arg-type]
        assert answer["error_type"] == "validation_error"
        assert "module of its own" in answer["error"]
    refused = master.register_task_handler("t", echoing.doubled)
    assert "handlers run on workers" in refused["error"]


def test_tokens_are_delegations_that_the_cluster_verifies(master: ipfs_kit) -> None:
    with made("worker") as worker:
        made_token = master.generate_auth_token(worker.node_id, ["read", "/task/submit"])
        assert made_token["success"] is True
        token = str(made_token["token"])
        for presented in (made_token, token):
            answer = worker.verify_peer_identity(worker.node_id, presented)
            assert answer["verified"] is True
        for peer, presented in (
            (master.node_id, token),
            (worker.node_id, token[:-12] + "A" * 12),
            (worker.node_id, "forged"),
        ):
            answer = master.verify_peer_identity(peer, presented)
            assert (answer["success"], answer["verified"]) == (True, False)
            assert answer["why"]
        assert worker.client.remove_node(worker.node_id) is None
        answer = master.verify_peer_identity(worker.node_id, token)
        assert answer["verified"] is False
    assert master.generate_auth_token(master.node_id, ["fly"])["error_type"] == "validation_error"
    assert master.get_cluster_metrics()["error_type"] == "not_supported"
    assert master.evaluate_potential_roles()["error_type"] == "not_supported"


def test_a_master_that_is_another_s_is_refused(master: ipfs_kit) -> None:
    other = master.node_address.rpartition("/")[0]
    stranger = "12D3KooWDhWxtvTnyMeS5HYtW77Nkh8NG6Eb7pAkCsvjQkaN1pnH"
    with pytest.raises(KitError) as caught:
        made("worker", master_addresses=[f"{other}/{stranger}"])
    assert stranger in caught.value.message
    children = [p for p in psutil.Process().children() if "serve" in p.cmdline()]
    assert [p.pid for p in children] == [master.node_pid]


def test_a_home_has_one_role_and_one_process(master: ipfs_kit) -> None:
    for role, words in (("worker", "is a master"), ("master", "did not start")):
        with pytest.raises(KitError) as caught:
            made(role, node_name="master")
        assert words in caught.value.message
    assert caught.value.error_type in set(ErrorType)
    assert master.get_cluster_status()["success"] is True


def test_the_node_ends_with_a_program_that_is_killed(folder: Path) -> None:
    code = (
        "from ipfs_cluster_node.kit import ipfs_kit; import time\n"
        "kit = ipfs_kit(role='master', enable_cluster_management=True)\n"
        "print(kit.node_pid, flush=True); time.sleep(600)"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    node = psutil.Process(int(program.stdout.readline()))
    program.send_signal(signal.SIGKILL)
    program.wait()
    program.stdout.close()
    psutil.wait_procs([node], timeout=SECONDS_MAX)
    assert not node.is_running()
