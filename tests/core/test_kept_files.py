"""Which files stay, and for how long."""

from dataclasses import replace

from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.file_namespaces import namespaces_of
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import (
    AttemptId,
    AttemptOutcome,
    TaskFailure,
    TaskInput,
    TaskResult,
    TaskSpec,
)
from ipfs_cluster_node.core.state import ClusterState
from tests.support.worlds import MASTER, WORKER, World, add_file

DAY_MS = 24 * 3_600_000


def add(world: World, cid: str, goes_with: str = "") -> object:
    return add_file(world, cid, goes_with=goes_with)


def submit(world: World, task_id: str, *inputs: str) -> None:
    spec = TaskSpec(task_type="echo", inputs=tuple(TaskInput(cid, cid) for cid in inputs))
    world.do(
        c.SubmitTasks(task_ids=(TaskId(task_id),), specs=(spec,), fingerprint=task_id.encode())
    )


def run(world: World, task_id: str) -> None:
    world.do(c.AssignTasks(assignments=((TaskId(task_id), WORKER),)))


def finish(world: World, task_id: str, result: str) -> None:
    attempt = AttemptId(TaskId(task_id), 1)
    outcome = AttemptOutcome(id=attempt, result=TaskResult(cid=result, size_bytes=7))
    world.do(c.FinishAttempts(node_id=WORKER, outcomes=(outcome,)))


def succeed(world: World, task_id: str, result: str) -> None:
    submit(world, task_id)
    run(world, task_id)
    add(world, result, goes_with=task_id)
    finish(world, task_id, result)


def forget_all(world: World) -> None:
    """Delete the tasks that have ended."""
    for _ in range(1200):  # The expiry clock advances in steps.
        world.now_ms += 600_000
        world.do(c.ExpireRecords())


def files(world: World) -> set[str]:
    """The files, which are the same after a snapshot."""
    again = ClusterState(world.state.data())
    assert list(again.contents.cids.after("")) == sorted(world.state.contents)
    assert again.data() == world.state.data()
    return set(world.state.contents)


def rejected(answer: object, reason: Reason) -> str:
    assert isinstance(answer, Rejected), answer
    assert answer.reason is reason
    return answer.message


def test_a_removed_file_is_gone_and_may_be_added_again(world: World) -> None:
    add(world, "a")
    assert world.do(c.RemoveContent(cid="a")) == Accepted(("7", MASTER))
    assert files(world) == set()
    assert "content list" in rejected(world.do(c.RemoveContent(cid="a")), Reason.CONTENT_NOT_FOUND)
    add(world, "a")
    assert files(world) == {"a"}


def test_a_file_stays_while_a_task_that_has_not_ended_needs_it(world: World) -> None:
    add(world, "a")
    submit(world, "t1", "a", "a")
    submit(world, "t2", "a")
    rejected(world.do(c.RemoveContent(cid="a")), Reason.CONTENT_NEEDED)
    assert world.state.needed_by(world.state.contents["a"]) == "t1"
    again = ClusterState(world.state.data())
    assert again.needed_by(again.contents["a"]) == "t1"
    world.do(c.CancelTask(task_id=TaskId("t1")))
    rejected(world.do(c.RemoveContent(cid="a")), Reason.CONTENT_NEEDED)
    assert world.state.needed_by(world.state.contents["a"]) == "t2"
    run(world, "t2")
    failure = TaskFailure(Reason.HANDLER_FAILED, "no")
    retried = AttemptOutcome(id=AttemptId(TaskId("t2"), 1), failure=failure, retryable=True)
    world.do(c.FinishAttempts(node_id=WORKER, outcomes=(retried,)))
    rejected(world.do(c.RemoveContent(cid="a")), Reason.CONTENT_NEEDED)
    assert world.state.needed_by(world.state.contents["a"]) == "t2"
    world.do(c.CancelTask(task_id=TaskId("t2")))
    assert isinstance(world.do(c.RemoveContent(cid="a")), Accepted)


def test_a_file_that_was_added_stays_when_the_tasks_that_used_it_are_deleted(world: World) -> None:
    add(world, "a")
    submit(world, "t1", "a")
    run(world, "t1")
    finish(world, "t1", "a")
    forget_all(world)
    assert world.state.tasks.get(TaskId("t1")) is None
    assert files(world) == {"a"}


def test_a_result_is_deleted_with_its_task_unless_it_is_kept(world: World) -> None:
    for task_id, result in (("t1", "gone"), ("t2", "kept"), ("t3", "added")):
        succeed(world, task_id, result)
    world.do(c.KeepContent(cid="kept"))
    add(world, "added")
    assert files(world) == {"gone", "kept", "added"}
    forget_all(world)
    assert files(world) == {"kept", "added"}
    rejected(world.do(c.KeepContent(cid="gone")), Reason.CONTENT_NOT_FOUND)


def test_a_result_is_kept_if_its_task_was_submitted_so(world: World) -> None:
    spec = TaskSpec(task_type="echo", namespace="team-a", keep_result=True)
    specs = {"kept": spec, "failed": spec, "shared": replace(spec, namespace="team-b")}
    for task_id, each in specs.items():
        world.do(
            c.SubmitTasks(task_ids=(TaskId(task_id),), specs=(each,), fingerprint=task_id.encode())
        )
        run(world, task_id)
    for task_id, result in (("kept", "file"), ("failed", "lost"), ("shared", "file")):
        add_file(world, result, goes_with=task_id, namespace=specs[task_id].namespace)
    finish(world, "kept", "file")
    finish(world, "shared", "file")
    failure = TaskFailure(Reason.HANDLER_FAILED, "no")
    outcome = AttemptOutcome(id=AttemptId(TaskId("failed"), 1), failure=failure)
    world.do(c.FinishAttempts(node_id=WORKER, outcomes=(outcome,)))
    succeed(world, "plain", "gone")
    forget_all(world)
    assert files(world) == {"file"}
    content = world.state.contents["file"]
    assert namespaces_of(content, world.state.tasks.get) == ("team-a", "team-b")
    rejected(world.do(c.RemoveContent(cid="lost")), Reason.CONTENT_NOT_FOUND)
    world.do(c.RemoveContent(cid="file"))
    assert files(world) == set()


def test_a_result_of_an_older_record_is_kept_in_its_task_s_namespace(world: World) -> None:
    spec = TaskSpec(task_type="echo", namespace="team-a", keep_result=True)
    world.do(c.SubmitTasks(task_ids=(TaskId("t"),), specs=(spec,), fingerprint=b"t"))
    run(world, "t")
    add(world, "file", goes_with="t")
    finish(world, "t", "file")
    forget_all(world)
    assert files(world) == {"file"}
    kept = world.state.contents["file"]
    assert namespaces_of(kept, world.state.tasks.get) == ("team-a",)


def test_a_result_that_is_kept_stays_in_the_namespace_of_an_older_record(world: World) -> None:
    """As long as that task: whoever reads it there still may."""
    submit(world, "older")
    run(world, "older")
    add(world, "file", goes_with="older")
    finish(world, "older", "file")
    spec = TaskSpec(task_type="echo", namespace="team-a", keep_result=True)
    world.do(c.SubmitTasks(task_ids=(TaskId("t"),), specs=(spec,), fingerprint=b"t"))
    run(world, "t")
    finish(world, "t", "file")
    content = world.state.contents["file"]
    assert namespaces_of(content, world.state.tasks.get) == ("default", "team-a")
    forget_all(world)
    kept = world.state.contents["file"]
    assert namespaces_of(kept, world.state.tasks.get) == ("team-a",)


def test_a_file_that_was_added_is_kept_even_if_it_is_a_result_later(world: World) -> None:
    add(world, "a")
    succeed(world, "t1", "a")
    forget_all(world)
    assert files(world) == {"a"}


def test_a_result_that_no_outcome_named_is_deleted_with_its_task(world: World) -> None:
    submit(world, "t1")
    run(world, "t1")
    add(world, "lost", goes_with="t1")
    rejected(world.do(c.RemoveContent(cid="lost")), Reason.CONTENT_NEEDED)
    world.do(c.CancelTask(task_id=TaskId("t1")))
    assert files(world) == {"lost"}
    forget_all(world)
    assert files(world) == set()


def test_a_result_stays_as_long_as_one_task_has_it(world: World) -> None:
    succeed(world, "t1", "same")
    world.now_ms += 6 * DAY_MS
    succeed(world, "t2", "same")
    world.do(c.ExpireRecords())
    for _ in range(300):
        world.now_ms += 600_000
        world.do(c.ExpireRecords())
    assert world.state.tasks.get(TaskId("t1")) is None
    assert world.state.tasks.get(TaskId("t2")) is not None
    assert files(world) == {"same"}
    forget_all(world)
    assert files(world) == set()


def test_a_result_stays_until_the_task_that_reads_it_has_ended(world: World) -> None:
    succeed(world, "t1", "first")
    submit(world, "t2", "first")
    forget_all(world)
    assert world.state.tasks.get(TaskId("t1")) is None
    assert files(world) == {"first"}
    world.do(c.CancelTask(task_id=TaskId("t2")))
    assert files(world) == set()


def test_a_result_that_was_removed_before_it_was_named_fails_the_attempt(world: World) -> None:
    """No task names a file that does not exist, whichever entry came first."""
    submit(world, "t1")
    run(world, "t1")
    finish(world, "t1", "absent")
    task = world.state.tasks.get(TaskId("t1"))
    assert task is not None
    assert task.result is None
    assert task.failure is not None
    assert task.failure.reason is Reason.CONTENT_NOT_FOUND


def test_the_result_of_a_deleted_task_is_refused(world: World) -> None:
    rejected(add(world, "late", goes_with="none"), Reason.STALE_ATTEMPT)
    assert files(world) == set()


def test_a_result_whose_task_is_deleted_is_in_no_known_namespace(world: World) -> None:
    """It was in `default` then, where others than its readers might read it."""
    succeed(world, "t1", "first")
    add(world, "added")
    submit(world, "t2", "first")
    state = world.state
    assert namespaces_of(state.contents["first"], state.tasks.get) == ("default",)
    forget_all(world)
    assert namespaces_of(state.contents["first"], state.tasks.get) == ()
    assert namespaces_of(state.contents["added"], state.tasks.get) == ("default",)
