"""Lists over several pages, while rows come, change and go, and at another master."""

from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.access.context import Caller, CallerClass, set_permissions
from ipfs_cluster_node.access.permissions import Unrestricted
from ipfs_cluster_node.cluster.tasks import Tasks
from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import TaskSpec
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.services import task_dispatch
from ipfs_cluster_node.services.membership import MembershipServicer
from ipfs_cluster_node.services.task_dispatch import TaskDispatchServicer
from ipfs_cluster_node.v1 import membership_pb2, task_dispatch_pb2
from tests.support.ucan import actor
from tests.support.worlds import OTHER, World

NOTHING: Any = None


@pytest.fixture(autouse=True)
def _as_operator() -> None:
    set_permissions(Unrestricted(Caller(actor(1).did, CallerClass.CLIENT)))


def tasks_of(state: ClusterState) -> TaskDispatchServicer:
    consensus: Any = SimpleNamespace(read_state=lambda: state, state=lambda: state)
    observations: Any = SimpleNamespace(progress={})
    return TaskDispatchServicer(Tasks(consensus, observations))


@pytest.mark.asyncio
async def test_a_list_goes_on_where_it_was_at_another_master_whatever_changed() -> None:
    world = World()
    names = [f"t{n}" for n in range(10)]
    world.submit(*names)
    request = task_dispatch_pb2.ListTasksRequest(page_size=4)
    page = await tasks_of(world.state).ListTasks(request, NOTHING)
    assert [task.task_id for task in page.tasks] == ["t9", "t8", "t7", "t6"]

    world.submit("t10")
    for ended in ("t6", "t5"):  # The last that was shown, and the next.
        world.do(c.CancelTask(task_id=TaskId(ended)))
    world.now_ms += 100 * 86_400_000
    world.do(c.ExpireRecords())
    world.assign("t4")
    other = ClusterState(decode_snapshot(encode_snapshot(world.state.data())))
    request.page_token = page.next_page_token
    page = await tasks_of(other).ListTasks(request, NOTHING)
    assert [task.task_id for task in page.tasks] == ["t4", "t3", "t2", "t1"]
    request.page_token, request.page_size = page.next_page_token, 5000
    page = await tasks_of(other).ListTasks(request, NOTHING)
    assert [task.task_id for task in page.tasks] == ["t0"]
    assert not page.next_page_token


@pytest.mark.asyncio
async def test_a_namespace_is_listed_in_pages_that_look_at_a_bounded_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_dispatch, "TASKS_SCANNED_MAX", 7)
    world = World()
    for n in range(30):
        namespace = f"team-{'a' if n % 10 == 0 else 'b'}/x"
        world.submit(f"t{n}", spec=TaskSpec(task_type="echo", namespace=namespace))
    request = task_dispatch_pb2.ListTasksRequest(namespace_pattern="team-a/*")
    pages: list[list[str]] = []
    while not pages or request.page_token:
        page = await tasks_of(world.state).ListTasks(request, NOTHING)
        pages.append([task.task_id for task in page.tasks])
        request.page_token = page.next_page_token
    assert pages == [[], ["t20"], ["t10"], [], ["t0"]]
    request.namespace_pattern = "team-a"
    assert not (await tasks_of(world.state).ListTasks(request, NOTHING)).tasks
    request.namespace_pattern = "*" * 257
    with pytest.raises(ClusterError, match="at most 256"):
        await tasks_of(world.state).ListTasks(request, NOTHING)


@pytest.mark.asyncio
async def test_a_list_names_who_submitted_and_where_it_ran() -> None:
    world = World()
    world.submit("t", "waits")
    world.assign("t", OTHER)
    [waits, ran] = (
        await tasks_of(world.state).ListTasks(task_dispatch_pb2.ListTasksRequest(), NOTHING)
    ).tasks
    assert (ran.status.node_name, waits.status.node_name) == ("n2", "")
    assert not ran.status.attempts
    assert not waits.status.HasField("waiting")


@pytest.mark.asyncio
async def test_settings_come_in_pages() -> None:
    """They had no pages: the answer grew with the keys of users."""
    world = World()
    world.do(c.ProposeConfig(values={f"user.{n:03}": "v" for n in range(150)}))
    view: Any = SimpleNamespace(read_state=lambda: world.state)
    servicer = MembershipServicer(NOTHING, view, NOTHING)
    request = membership_pb2.GetConfigRequest()
    keys: list[str] = []
    sizes: list[int] = []
    while not keys or request.page_token:
        page = await servicer.GetConfig(request, NOTHING)
        keys += [entry.key for entry in page.entries]
        sizes.append(len(page.entries))
        request.page_token = page.next_page_token
    assert keys == world.state.settings.keys()
    assert sizes[0] == 100
    one = await servicer.GetConfig(membership_pb2.GetConfigRequest(key="user.149"), NOTHING)
    assert ([entry.key for entry in one.entries], one.next_page_token) == (["user.149"], "")
    request.page_token = (await servicer.GetConfig(request, NOTHING)).next_page_token
    with pytest.raises(ClusterError, match="not of this list"):
        await tasks_of(world.state).ListTasks(
            task_dispatch_pb2.ListTasksRequest(page_token=request.page_token), NOTHING
        )


@pytest.mark.asyncio
async def test_tasks_are_listed_by_the_beginning_of_their_ids() -> None:
    world = World()
    world.submit("ab1", "b1", "ab2", "xab")
    servicer = tasks_of(world.state)
    request = task_dispatch_pb2.ListTasksRequest(task_id_prefix="ab", page_size=1)
    page = await servicer.ListTasks(request, NOTHING)
    assert [task.task_id for task in page.tasks] == ["ab2"]
    request.page_token = page.next_page_token
    page = await servicer.ListTasks(request, NOTHING)
    assert [task.task_id for task in page.tasks] == ["ab1"]
    assert not page.next_page_token
    with pytest.raises(ClusterError, match="task_id_prefix"):
        await servicer.ListTasks(task_dispatch_pb2.ListTasksRequest(task_id_prefix="/"), NOTHING)
