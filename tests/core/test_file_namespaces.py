"""The namespaces that a file is in: where it was added, and of the tasks that made it."""

from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.authorization import (
    ANY,
    UNKNOWN_SIZE,
    alternatives,
    content_args,
    content_args_in,
)
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.file_namespaces import kept_namespaces_of, namespaces_of
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import (
    AttemptId,
    AttemptOutcome,
    Content,
    TaskInput,
    TaskResult,
    TaskSpec,
)
from ipfs_cluster_node.core.state import ClusterState
from tests.support.worlds import MASTER, WORKER, World, add_file


def add(world: World, namespace: str, goes_with: str = "", cid: str = "a") -> object:
    return add_file(world, cid, goes_with=goes_with, namespace=namespace)


def submit(world: World, task_id: str, namespace: str, *inputs: str) -> None:
    named = tuple(TaskInput(cid, cid) for cid in inputs)
    spec = TaskSpec(task_type="echo", namespace=namespace, inputs=named)
    tasks = c.SubmitTasks(task_ids=(TaskId(task_id),), specs=(spec,), fingerprint=task_id.encode())
    world.do(tasks)


def make(world: World, task_id: str, namespace: str, cid: str = "a") -> None:
    """Have a task of this namespace make the file."""
    submit(world, task_id, namespace)
    world.do(c.AssignTasks(assignments=((TaskId(task_id), WORKER),)))
    add(world, namespace, task_id, cid)
    result = TaskResult(cid=cid, size_bytes=7)
    outcome = AttemptOutcome(id=AttemptId(TaskId(task_id), 1), result=result)
    world.do(c.FinishAttempts(node_id=WORKER, outcomes=(outcome,)))


def remove(world: World, *among: str, namespace: str = "") -> object:
    return world.do(c.RemoveContent(cid="a", namespace=namespace, among=among))


def pass_days(world: World, days: int) -> None:
    for _ in range(days * 144):  # The expiry clock advances in steps.
        world.now_ms += 600_000
        world.do(c.ExpireRecords())


def found(world: World) -> Content | None:
    """The file, which is the same after a snapshot."""
    assert ClusterState(world.state.data()).data() == world.state.data()
    return world.state.contents.get("a")


def inside(world: World) -> tuple[str, ...]:
    content = found(world)
    assert content is not None
    return namespaces_of(content, world.state.tasks.get)


def is_rejected(answer: object, reason: Reason) -> bool:
    return isinstance(answer, Rejected) and answer.reason is reason


def test_a_file_is_in_each_namespace_it_was_added_in(world: World) -> None:
    for namespace in ("team-b", "team-a", "team-b"):
        add(world, namespace)
    assert inside(world) == ("team-a", "team-b")
    content = found(world)
    assert content is not None
    judged = alternatives(content_args("a", content, world.state.tasks.get))
    assert [each["namespace"] for each in judged] == ["team-a", "team-b"]
    assert {each["size"] for each in judged} == {7}


def test_it_is_removed_from_one_and_gone_with_the_last(world: World) -> None:
    add(world, "team-a")
    add(world, "team-b")
    assert remove(world, namespace="team-a") == Accepted(("7",))
    assert inside(world) == ("team-b",)
    assert is_rejected(remove(world, namespace="team-a"), Reason.CONTENT_NOT_FOUND)
    assert remove(world, namespace="team-b") == Accepted(("7", MASTER))
    assert found(world) is None


def test_it_is_removed_from_all_that_the_caller_may(world: World) -> None:
    for namespace in ("team-a", "team-b", "team-c"):
        add(world, namespace)
    assert remove(world, "team-a", "team-c", "other") == Accepted(("7",))
    assert inside(world) == ("team-b",)
    assert is_rejected(remove(world, "team-a"), Reason.CONTENT_NOT_FOUND)
    assert remove(world, "team-a", "team-b") == Accepted(("7", MASTER))


def test_a_repeat_is_one_only_for_the_same_namespace(world: World) -> None:
    add(world, "team-a")
    add(world, "team-b")
    first = c.RemoveContent(cid="a", among=("team-a", "team-b"))
    again = c.RemoveContent(cid="a")  # Once it is gone, its namespaces are not known.
    other = c.RemoveContent(cid="a", namespace="team-a")
    assert c.fingerprint_of(first) == c.fingerprint_of(again) != c.fingerprint_of(other)


def test_a_result_is_in_the_namespace_of_each_task_that_made_it(world: World) -> None:
    make(world, "t1", "team-a")
    pass_days(world, 4)
    make(world, "t2", "team-b")
    assert inside(world) == ("team-a", "team-b")
    pass_days(world, 4)
    assert world.state.tasks.get(TaskId("t1")) is None
    assert inside(world) == ("team-b",), "its only task of team-a is deleted"
    pass_days(world, 4)
    assert found(world) is None


def test_a_result_stays_in_a_namespace_while_any_task_there_has_it(world: World) -> None:
    make(world, "t1", "team-a")
    make(world, "t2", "team-b")
    pass_days(world, 4)
    make(world, "t3", "team-a")
    add(world, "team-a", "t3")
    pass_days(world, 4)
    assert inside(world) == ("team-a",)


def test_a_result_that_is_kept_stays_where_it_is_kept(world: World) -> None:
    make(world, "t1", "team-a")
    make(world, "t2", "team-b")
    assert world.do(c.KeepContent(cid="a", namespace="team-a")) == Accepted(("a",))
    elsewhere = c.KeepContent(cid="a", namespace="team-c")
    assert is_rejected(world.do(elsewhere), Reason.CONTENT_NOT_FOUND)
    content = found(world)
    assert content is not None
    assert kept_namespaces_of(content) == ("team-a",)
    assert inside(world) == ("team-a", "team-b")
    pass_days(world, 8)
    assert inside(world) == ("team-a",)


def test_a_removed_result_does_not_come_back_with_the_task_that_names_it(world: World) -> None:
    make(world, "t1", "team-a")
    add(world, "team-b")
    assert remove(world, namespace="team-a") == Accepted(("7",))
    assert inside(world) == ("team-b",)
    assert remove(world, namespace="team-b") == Accepted(("7", MASTER, WORKER))


def test_a_removed_result_goes_with_the_last_namespace_that_has_it(world: World) -> None:
    make(world, "t2", "team-b")
    pass_days(world, 4)
    make(world, "t1", "team-a")
    assert remove(world, namespace="team-a") == Accepted(("7",))
    pass_days(world, 4)
    assert world.state.tasks.get(TaskId("t1")) is not None
    assert found(world) is None, "its only task is one from whose namespace it was removed"


def test_a_file_that_a_task_of_another_namespace_needs_stays(world: World) -> None:
    add(world, "team-a")
    add(world, "team-b")
    submit(world, "t1", "team-b", "a")
    assert remove(world, namespace="team-a") == Accepted(("7",))
    assert is_rejected(remove(world, namespace="team-b"), Reason.CONTENT_NEEDED)
    world.do(c.CancelTask(task_id=TaskId("t1")))
    assert isinstance(remove(world, namespace="team-b"), Accepted)


def test_a_result_that_no_outcome_names_yet_is_not_removed_from_its_namespace(world: World) -> None:
    submit(world, "t1", "team-a")
    world.do(c.AssignTasks(assignments=((TaskId("t1"), WORKER),)))
    add(world, "team-a", "t1")
    add(world, "team-b")
    assert is_rejected(remove(world, namespace="team-a"), Reason.CONTENT_NEEDED)
    assert remove(world, namespace="team-b") == Accepted(("7",))


def test_what_only_an_input_holds_is_in_no_namespace(world: World) -> None:
    make(world, "t1", "team-a")
    pass_days(world, 6)
    submit(world, "t2", "team-b", "a")
    pass_days(world, 2)
    assert inside(world) == ()
    args = content_args("a", found(world), world.state.tasks.get)
    assert [each["namespace"] for each in alternatives(args)] == [ANY]
    world.do(c.CancelTask(task_id=TaskId("t2")))
    assert found(world) is None


def test_what_a_caller_names_is_judged_by_its_own_words(world: World) -> None:
    """A caller that may remove files of team-a learns nothing of one that is not there."""
    add(world, "team-b")
    content, task_of = found(world), world.state.tasks.get
    named = content_args_in("team-a", "a", content, task_of)
    assert named == {"namespace": "team-a", "cid": "a", "size": UNKNOWN_SIZE}
    assert named == content_args_in("team-a", "a", None, task_of)
    assert content_args_in("team-b", "a", content, task_of)["size"] == 7


def test_a_file_of_an_older_log_is_where_it_was(world: World) -> None:
    """Its record names no namespace, and neither do the commands of that log."""
    add(world, "")
    assert inside(world) == ("default",)
    add(world, "team-a")
    assert inside(world) == ("default", "team-a")
    submit(world, "t1", "team-b")
    add(world, "", "t1", cid="b")
    made = world.state.contents["b"]
    assert namespaces_of(made, world.state.tasks.get) == ("team-b",)
    assert kept_namespaces_of(made) == ()
    world.do(c.KeepContent(cid="b"))
    kept = world.state.contents["b"]
    assert namespaces_of(kept, world.state.tasks.get) == ("default",) == kept_namespaces_of(kept)
