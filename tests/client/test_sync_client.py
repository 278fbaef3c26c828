"""The client without asyncio: its thread, its end, Ctrl-C."""

import asyncio
import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_type

import pytest

import ipfs_cluster_node
from ipfs_cluster_node import SyncClient as PublicClient
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.sync import SyncClient, SyncSubmittedTask
from ipfs_cluster_node.config.profiles import PROFILES_VARIABLE
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.views import ListedNode, ListedTask
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb

THREAD = "ipfs-cluster-node-client"
OPERATIONS = sorted(
    name
    for name, function in inspect.getmembers(Client, inspect.isfunction)
    if not name.startswith("_")
)


class Cluster:
    """A connection with given answers, or none at all."""

    def __init__(self, answer: Callable[[Any], Any] | None = None) -> None:
        self.metadata = ()
        self.answer = answer
        self.asked = threading.Event()
        self.cancelled = False
        self.closed = False

    async def unary(self, request: Any, *, timeout: float) -> Any:
        self.asked.set()
        if self.answer is not None:
            return self.answer(request)
        try:
            await asyncio.sleep(timeout)
        finally:
            self.cancelled = True

    async def close(self) -> None:
        self.closed = True


def client_of(cluster: Any) -> SyncClient:
    def make() -> Client:
        client = Client(cluster)
        client._learn_at = float("inf")
        return client

    return SyncClient(make)


def submitted(_request: Any) -> Any:
    return pb.SubmitTaskResponse(task_id="t1")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [each for each in threading.enumerate() if each.name == THREAD] == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_the_client_is_there_and_blocks(name: str) -> None:
    found = getattr(SyncClient, name)
    assert not inspect.iscoroutinefunction(found)
    assert not inspect.isasyncgenfunction(found)
    assert found.__doc__


if TYPE_CHECKING:  # What `scripts/check` sees of the types; an unused `ignore` is an error too.

    def _types(client: PublicClient) -> None:
        assert_type(client.get_task("t1"), ListedTask)
        assert_type(client.list_nodes(), list[ListedNode])
        assert_type(client.submit_task("echo"), SyncSubmittedTask)
        assert_type(client.submit_tasks([]), list[SyncSubmittedTask])
        assert_type(client.watch_tasks(["t1"]), Iterator[ListedTask])
        assert_type(client.get_content("cid"), Iterator[bytes])
        client.get_task(7)  # type: ignore[arg-type]
        client.get_task("t1", deadline=1)  # type: ignore[call-arg]
        client.get_tasks("t1")  # type: ignore[attr-defined]


@pytest.mark.asyncio
async def test_it_works_where_a_loop_runs_already() -> None:
    """As in a notebook."""
    with client_of(Cluster(submitted)) as client:
        assert client.submit_task("echo", b"x") == "t1"


def test_its_end_is_deterministic_and_safe_to_repeat() -> None:
    cluster = Cluster(submitted)
    client = client_of(cluster)
    client.close()
    assert cluster.closed
    assert [each for each in threading.enumerate() if each.name == THREAD] == []
    client.close()
    with pytest.raises(ClusterError, match="the client is closed; open another one"):
        client.submit_task("echo")
    with pytest.raises(ClusterError, match="the client is closed"):
        next(client.watch_tasks(["t"]))


def test_what_runs_in_another_thread_ends_with_it() -> None:
    cluster = Cluster()
    client = client_of(cluster)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            client.get_task("t1")
        except ClusterError as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert cluster.asked.wait(10)
    client.close()
    asking.join(10)
    [error] = errors
    assert isinstance(error, ClusterError)
    assert error.reason is Reason.UNKNOWN_OUTCOME
    assert "the client was closed before the answer came" in str(error)
    assert cluster.cancelled


def test_many_threads_may_call_while_one_closes_it() -> None:
    """Each gets its answer or an error, and none waits for ever."""
    for _ in range(20):
        client = client_of(Cluster(submitted))
        ends: list[object] = []

        def ask(client: SyncClient = client, ends: list[object] = ends) -> None:
            try:
                while True:
                    client.submit_task("echo")
            except ClusterError as error:
                ends.append(error.reason)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for each in threads:
            each.start()
        client.close()
        for each in threads:
            each.join(10)
        assert len(ends) == 4


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), RuntimeError("mine")])
def test_what_a_callback_raises_is_raised_to_the_caller(raised: BaseException) -> None:
    def answer(_request: Any) -> Any:
        raise raised

    with client_of(Cluster(answer)) as client:
        for _ in range(2):  # The thread goes on.
            with pytest.raises(type(raised)):
                client.submit_task("echo")


def test_a_callback_that_calls_the_client_is_refused_and_does_not_wait_for_itself() -> None:
    client = client_of(Cluster(lambda _request: client.submit_task("echo")))
    with client, pytest.raises(ClusterError, match="may not call the client"):
        client.get_task("t1")


def test_without_a_profile_it_says_so_and_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(PROFILES_VARIABLE, str(tmp_path / "none.toml"))
    with pytest.raises(ClusterError) as caught:
        SyncClient.from_profile()
    assert caught.value.reason is Reason.CONFIG_INVALID


def test_a_submitted_task_is_an_id() -> None:
    with client_of(Cluster(submitted)) as client:
        task = client.submit_task("echo", b"x")
        keyed: dict[str, int] = {task: 1}
        assert (task, keyed["t1"], f"{task}") == ("t1", 1, "t1")
        assert client.task("t2") == "t2"
        with pytest.raises(ClusterError):
            client.task(None)  # type: ignore[arg-type]


SCRIPT = """
import asyncio, signal, sys
sys.path.insert(0, {tests!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.client.test_sync_client import Cluster, client_of
cluster = Cluster()
client = client_of(cluster)
"""


@pytest.fixture
def script() -> str:
    return SCRIPT.format(tests=str(Path(__file__).parents[2]))


def test_ctrl_c_cancels_the_operation_and_the_client_goes_on(script: str) -> None:
    script += """
import threading
threading.Thread(target=lambda: cluster.asked.wait() and print("asking", flush=True)).start()
try:
    client.get_task("t1")
except KeyboardInterrupt:
    print("cancelled" if cluster.cancelled else "left")
from tests.client.test_sync_client import submitted
cluster.answer = submitted
print(client.submit_task("echo"))
client.close()
print("closed" if cluster.closed else "open")
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        try:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (out.split(), err) == (["cancelled", "t1", "closed"], "")


def test_a_script_that_closes_nothing_ends_at_once_and_in_silence(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_the_package_alone_loads_nothing_heavy_and_names_what_it_has() -> None:
    heavy = ("grpc", "google", "pyarrow", "duckdb", "asyncio", "cryptography")
    code = f"import sys, ipfs_cluster_node; print(*set({heavy}) & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    stub = (Path(ipfs_cluster_node.__file__).parent / "__init__.pyi").read_text()
    names = sorted(vars(ipfs_cluster_node)["_MODULES"])
    assert [name for name in names if f" as {name}\n" not in stub] == []
    assert all(getattr(ipfs_cluster_node, name).__name__ == name for name in names)
    assert set(names) <= set(dir(ipfs_cluster_node))
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        ipfs_cluster_node.Cleint  # type: ignore[attr-defined]  # noqa: B018


def test_time_limits_are_timedeltas() -> None:
    with client_of(Cluster(submitted)) as client:
        assert client.submit_task("echo", timeout=timedelta(seconds=5)) == "t1"
        with pytest.raises(ClusterError, match="give a timedelta"):
            client.submit_task("echo", timeout=5)  # type: ignore[arg-type]
