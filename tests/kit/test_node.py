"""A kit's node: the same after a restart, joined by token, with handlers, ended with its program."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from ipfs_cluster_node.adapters.net.ports import free_port
from ipfs_cluster_node.config.profiles import JOIN_TOKEN_VARIABLE, KIT_DIRECTORY_VARIABLE
from ipfs_cluster_node.kit import KitError, host, ipfs_kit
from ipfs_cluster_node.kit.host import HIDDEN_PATHS_VARIABLE
from ipfs_cluster_node.kit.results import ErrorType, Result
from ipfs_cluster_node.node import setup
from tests.kit import echoing
from tests.support.kits import choosing_ports, kit_environment

pytestmark = pytest.mark.usefixtures("one_at_a_time")

SECONDS_MAX = 30.0
OF_THE_OPERATOR = """
from ipfs_cluster_node.tasks import task_handler


@task_handler("mine")
def mine(task):
    return "mine"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in kit_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture(scope="module")
def lasting_master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ipfs_kit]:
    """For tests that change nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in kit_environment(tmp_path_factory.mktemp("lasting")).items():
            patch.setenv(name, value)
        with choosing_ports():
            kit = made("master")
    with kit:
        yield kit


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
        cancelled = master.cancel_task(submitted["task_id"])  # It has ended.
        assert (cancelled["success"], cancelled["error_type"]) == (False, "validation_error")
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


def test_a_file_that_does_not_load_is_no_handler_and_changes_nothing(
    master: ipfs_kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "no_such_module", ModuleType("no_such_module"))
    importing = importlib.import_module("tests.kit.importing")
    with made("worker") as worker:
        handlers = Path(os.environ[KIT_DIRECTORY_VARIABLE]) / "c" / "worker" / "handlers"
        for task_type in ("a.b", "a_b"):  # Each has a file of its own.
            assert worker.register_task_handler(task_type, echoing.doubled)["success"] is True
        files = {path.name: path.read_bytes() for path in handlers.glob("*.py")}
        assert len(files) == 2
        for task_type in ("a.b", "new"):
            answer = worker.register_task_handler(task_type, importing.doubled)
            assert (answer["success"], answer["error_type"]) == (False, "configuration_error")
            assert "no_such_module" in answer["error"]
            assert "correct your module" in answer["error"]
            assert str(handlers) not in answer["error"]  # Its file there is gone.
            assert {p.name: p.read_bytes() for p in handlers.glob("*.py")} == files
        (worker_node,) = worker.get_nodes(role_filter="worker")["nodes"]
        assert {"a.b", "a_b"} <= set(worker_node["task_types"])
        submitted = worker.submit_cluster_task("a.b", {"number": 4})
        assert ended(worker, submitted["task_id"])["result"] == {"number": 8}


def test_a_handler_does_not_take_the_place_of_the_operator_s(master: ipfs_kit) -> None:
    with made("worker") as worker:
        handlers = Path(os.environ[KIT_DIRECTORY_VARIABLE]) / "c" / "worker" / "handlers"
        (handlers / "mine.py").write_text(OF_THE_OPERATOR)
        assert worker.register_task_handler("other", echoing.doubled)["success"] is True
        answer = worker.register_task_handler("mine", echoing.doubled)
        assert answer["error_type"] == "configuration_error"
        assert "both handle" in answer["error"]
        submitted = worker.submit_cluster_task("mine", {})
        assert ended(worker, submitted["task_id"])["result"] == "mine"


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("submit_cluster_task", {"task_type": "echo", "payload": {}, "timeout": "x"}, "timeout"),
        ("submit_cluster_task", {"task_type": "echo", "payload": {}, "timeout": 1e30}, "timeout"),
        (
            "submit_cluster_task",
            {"task_type": "echo", "payload": {}, "timeout": float("nan")},
            "timeout",
        ),
        ("submit_cluster_task", {"task_type": "echo", "payload": {}, "priority": 99}, "priority"),
        ("submit_cluster_task", {"task_type": 5, "payload": {}}, "task_type"),
        ("get_task_status", {"task_id": None}, "task_id"),
        ("cancel_task", {"task_id": 5}, "task_id"),
        ("get_tasks", {"limit": "x"}, "limit"),
        ("get_tasks", {"limit": True}, "limit"),
        ("get_nodes", {"role_filter": ["worker"]}, "role"),
        ("propose_config_change", {"key": 3, "value": 3}, "key"),
        ("propose_config_change", {"key": "user.a", "value": None}, "value"),
        ("propose_config_change", {"key": "user.a", "value": {"a": 1}}, "value"),
        ("generate_auth_token", {"peer_id": None}, "peer_id"),
        ("generate_auth_token", {"peer_id": "12D3", "capabilities": ["read"]}, "PeerID"),
        ("verify_peer_identity", {"peer_id": None, "presented_token": "C"}, "peer_id"),
        ([], {}, "no method"),
    ],
)
def test_wrong_values_are_answered_with_what_is_wrong(
    lasting_master: ipfs_kit, method: str, arguments: dict[str, object], words: str
) -> None:
    answer = lasting_master(method, **arguments)
    assert (answer["success"], answer["error_type"]) == (False, "validation_error")
    assert words in answer["error"]


@pytest.mark.parametrize("capabilities", [None, "read", [None], [["read"]], []])
def test_capabilities_are_a_list_of_texts(lasting_master: ipfs_kit, capabilities: object) -> None:
    node_id = lasting_master.node_id
    answer = lasting_master("generate_auth_token", peer_id=node_id, capabilities=capabilities)
    assert answer["error_type"] == "validation_error"
    assert "apabilities" in answer["error"]


def test_a_time_limit_is_a_number_of_seconds() -> None:
    for timeout in ("x", 0, -1, float("nan"), None):
        with pytest.raises(KitError, match="timeout"):
            ipfs_kit(timeout=timeout)  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_a_program_with_a_loop_of_its_own_may_join(master: ipfs_kit) -> None:
    """As a notebook has."""
    worker = made("worker")
    try:
        assert worker.ipfs_kit_ready()["ready"] is True
    finally:
        worker.close()


def test_what_the_user_hid_stays_hidden_from_handlers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv(KIT_DIRECTORY_VARIABLE, "kits")
    monkeypatch.setenv(HIDDEN_PATHS_VARIABLE, "/secret")
    monkeypatch.setenv(JOIN_TOKEN_VARIABLE, "cj1")
    environment = host._node_environment()
    assert environment[HIDDEN_PATHS_VARIABLE] == f"{folder / 'kits'},/secret"
    assert JOIN_TOKEN_VARIABLE not in environment


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
    before = set(psutil.Process().children())
    with pytest.raises(KitError) as caught:
        made("worker", master_addresses=[f"{other}/{stranger}"])
    assert stranger in caught.value.message
    assert set(psutil.Process().children()) == before
    assert master.get_nodes(role_filter="worker")["count"] == 0  # It did not join either.


def test_a_home_has_one_role_and_one_process(master: ipfs_kit) -> None:
    for role, words in (("worker", "is a master"), ("master", "or give another node_name")):
        with pytest.raises(KitError) as caught:
            made(role, node_name="master")
        assert words in caught.value.message
    assert caught.value.error_type is ErrorType.CONFIGURATION
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


def test_a_passphrase_is_kept_however_early_the_program_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(**_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(setup, "Made", killed)  # The last of it: the node is made by then.
        with pytest.raises(KeyboardInterrupt):
            made("master")
    home = folder / "kits" / "c" / "master"
    assert (home / "config.toml").exists()
    kept = home / host.PASSPHRASE_FILE
    assert len(kept.read_text().strip()) > 20
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("needs", ["port", "approval"])
def test_a_join_that_has_to_wait_ends_and_says_for_what(
    needs: str, master: ipfs_kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It once took as long as the token was valid, an hour, and said nothing."""
    monkeypatch.setattr(host, "JOIN_SECONDS_MAX", 2.0)
    token = master.client.create_join_token("worker", needs_approval=True).token
    taken = "127.0.0.1:" + master.node_address.split("/")[4]
    more = {"bind": taken} if needs == "port" else {"join_token": token}
    with pytest.raises(KitError) as caught:
        made("worker", **more)
    assert caught.value.error_type is ErrorType.TIMEOUT
    assert (taken if needs == "port" else "node approve 12D3Koo") in caught.value.message


def test_a_node_whose_port_is_taken_starts_again_where_its_metadata_say(folder: Path) -> None:
    """The error named an option of the command line, and `bind` was read for a new node alone."""
    with made("master") as master:
        first, port = master.node_id, int(master.node_address.split("/")[4])
        with made("worker", master_addresses=[master.node_address]) as worker:
            assert worker.ipfs_kit_ready()["ready"] is True
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(KitError) as caught:
            made("master")
        assert caught.value.error_type is ErrorType.CONFIGURATION
        assert caught.value.reason == "PORT_IN_USE"
        assert "or give another `bind` in the metadata" in caught.value.message
        other = free_port({port})
        with made("master", bind=f"127.0.0.1:{other}") as again:
            assert again.node_id == first
            assert again.node_address.split("/")[4] == str(other)
            with made("worker") as worker:  # It knows where the master was.
                assert worker.get_nodes(role_filter="worker")["nodes"][0]["status"] == "online"
        with made("master") as again:  # From then on.
            assert again.node_address.split("/")[4] == str(other)


def test_a_kit_whose_node_was_killed_is_not_ready(master: ipfs_kit) -> None:
    with made("worker") as worker:
        assert worker.node_pid is not None
        process = psutil.Process(worker.node_pid)
        process.kill()
        process.wait(SECONDS_MAX)
        answer = worker.ipfs_kit_ready()
        assert (answer["success"], answer["ready"]) == (True, False)
        assert "worker/log" in answer["why"]


def test_two_masters_that_were_closed_start_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to start gave up after 10 s, and no error named the other."""
    with made("master") as first, made("master", node_name="second") as second:
        address = second.node_address
        until = time.monotonic() + SECONDS_MAX
        while not all(each.voter for each in first.client.list_nodes()):
            assert time.monotonic() < until
            time.sleep(0.05)  # Who votes is told to no client: it has to be asked again.
    monkeypatch.setattr(host, "READY_SECONDS_MAX", 3.0)
    with pytest.raises(KitError) as caught:
        made("master")
    assert caught.value.reason == "NO_LEADER"
    assert f"node_name second at 127.0.0.1:{address.split('/')[4]}" in caught.value.message
    monkeypatch.undo()
    for name, value in kit_environment(folder).items():
        monkeypatch.setenv(name, value)
    with ThreadPoolExecutor() as threads:
        kits = list(threads.map(lambda name: made("master", node_name=name), ["master", "second"]))
    try:
        assert all(each.ipfs_kit_ready()["ready"] for each in kits)
    finally:
        for kit in kits:
            kit.close()
