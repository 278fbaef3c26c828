"""The replicated state: what commands do, and what they refuse."""

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipfs_cluster_node.codec.commands import decode_command, encode_command
from ipfs_cluster_node.codec.errors import status_of
from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import (
    Did,
    NodeId,
    TaskId,
    did_from_public_key,
    node_id_from_public_key,
)
from ipfs_cluster_node.core.model import (
    ATTEMPT_LOST_MAX,
    AttemptId,
    AttemptOutcome,
    Liveness,
    Principal,
    Role,
    TaskFailure,
    TaskResult,
    TaskSpec,
    TaskState,
)
from ipfs_cluster_node.core.scheduler import WorkerOffer, plan
from ipfs_cluster_node.core.state import MORE, ClusterState
from ipfs_cluster_node.core.tasks import TaskTable
from ipfs_cluster_node.v1 import errors_pb2

DAY_MS = 86_400_000
KEYS = [bytes([n]) * 32 for n in range(4)]
MASTER, WORKER, OTHER, JOINER = map(node_id_from_public_key, KEYS)
CLIENT = did_from_public_key(b"c" * 32)
T = TaskId("t")


class World:
    """A state with a master and two workers that are alive."""

    def __init__(self) -> None:
        self.state = ClusterState()
        self.now_ms = 1_000
        principals = tuple(
            Principal(
                did=did_from_public_key(key),
                name=f"n{n}",
                role=Role.MASTER if n == 0 else Role.WORKER,
                incarnation=1 if n == 0 else 0,
                enrolled_at_ms=1,
                liveness_at_ms=1,
            )
            for n, key in enumerate(KEYS[:3])
        )
        self.do(
            c.BootstrapCluster(
                cluster_id="id",
                cluster_name="name",
                cluster_did=did_from_public_key(KEYS[3]),
                principals=principals,
            )
        )
        for node in (WORKER, OTHER):
            self.do(
                c.RegisterNode(
                    node_id=node, endpoints=(), task_types=("echo",), slot_count=2, version="1"
                )
            )

    def do(self, body: c.CommandBody, request_id: str = "", caller: str = CLIENT):  # type: ignore[no-untyped-def]
        command = c.Command(at_ms=self.now_ms, body=body, caller=caller, request_id=request_id)
        # Through the log's bytes, as every command goes.
        return self.state.apply(decode_command(encode_command(command))).outcome

    def submit(self, *task_ids: str, request_id: str = "", spec: TaskSpec | None = None):  # type: ignore[no-untyped-def]
        spec = spec or TaskSpec(task_type="echo", payload=b"x")
        return self.do(
            c.SubmitTasks(
                task_ids=tuple(map(TaskId, task_ids)),
                specs=(spec,) * len(task_ids),
                fingerprint=sha256(spec.payload).digest(),
            ),
            request_id,
        )

    def assign(self, task_id: str = "t", node: NodeId = WORKER) -> None:
        self.do(c.AssignTasks(assignments=((TaskId(task_id), node),)))

    def finish(self, attempt: int, node: NodeId = WORKER, *, failure: bool = False) -> None:
        outcome = AttemptOutcome(
            id=AttemptId(T, attempt),
            result=None if failure else TaskResult(data=b"r"),
            failure=TaskFailure(Reason.HANDLER_FAILED, "no") if failure else None,
            retryable=failure,
        )
        self.do(c.FinishAttempts(node_id=node, outcomes=(outcome,)))

    def task(self, task_id: str = "t"):  # type: ignore[no-untyped-def]
        task = self.state.tasks.get(TaskId(task_id))
        assert task is not None
        return task


@pytest.fixture
def world() -> World:
    return World()


def test_a_task_goes_from_pending_over_running_to_its_result(world: World) -> None:
    assert world.submit("t") == Accepted(("t",))
    assert world.task().state is TaskState.PENDING
    world.assign()
    assert (world.task().state, world.task().attempt) == (TaskState.RUNNING, 1)
    world.finish(1)
    assert world.task().state is TaskState.SUCCEEDED
    assert world.task().spec.payload == b""  # Of no more use.


def test_a_late_result_of_an_old_attempt_is_refused(world: World) -> None:
    world.submit("t")
    world.assign()
    world.do(c.SetLiveness(dead=(WORKER,)))
    assert world.task().state is TaskState.PENDING
    world.assign(node=OTHER)
    world.finish(1)
    assert (world.task().state, world.task().attempt) == (TaskState.RUNNING, 2)
    world.finish(2, WORKER)  # The right attempt, from a node that does not hold it.
    assert world.task().state is TaskState.RUNNING
    world.finish(2, OTHER)
    assert world.task().state is TaskState.SUCCEEDED
    world.finish(2, OTHER, failure=True)
    assert world.task().state is TaskState.SUCCEEDED


def test_a_failure_is_repeated_as_often_as_was_asked(world: World) -> None:
    world.submit("t")
    for attempt in (1, 2, 3):
        world.assign()
        world.finish(attempt, failure=True)
    assert world.task().state is TaskState.FAILED
    assert world.task().failure == TaskFailure(Reason.HANDLER_FAILED, "no")


def test_a_task_that_loses_each_worker_stops(world: World) -> None:
    world.submit("t")
    for attempt in range(1, ATTEMPT_LOST_MAX + 1):
        world.assign()
        world.do(c.RequeueAttempts(ids=(AttemptId(T, attempt),)))
    assert world.task().failure is not None
    assert world.task().failure.reason is Reason.WORKER_LOST


def test_no_task_is_given_to_a_dead_or_removed_node(world: World) -> None:
    world.submit("t")
    world.do(c.SetLiveness(dead=(WORKER,)))
    world.assign()
    assert world.task().state is TaskState.PENDING
    world.do(c.RemoveNode(node_id=OTHER))
    world.assign(node=OTHER)
    assert world.task().state is TaskState.PENDING


def test_a_repeat_gets_the_first_answer_and_other_content_is_refused(world: World) -> None:
    first = world.submit("t", request_id="r")
    assert world.submit("u", request_id="r") == first
    assert world.state.tasks.get(TaskId("u")) is None
    other = world.submit("v", request_id="r", spec=TaskSpec(task_type="echo", payload=b"y"))
    assert isinstance(other, Rejected)
    assert other.reason is Reason.REQUEST_ID_REUSED


def test_answers_and_ended_tasks_are_forgotten_after_their_time(world: World) -> None:
    world.submit("t", request_id="r")
    world.assign()
    world.finish(1)
    world.now_ms += 8 * DAY_MS
    world.do(c.ExpireRecords())
    assert len(world.state.tasks) == 0
    assert world.submit("u", request_id="r") == Accepted(("u",))


def test_much_is_forgotten_in_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once would keep every master from all else at the same time."""
    monkeypatch.setattr("ipfs_cluster_node.core.state.EXPIRED_MAX", 2)
    for number in range(5):
        world.submit(f"t{number}", request_id=f"r{number}")
        world.do(c.CancelTask(task_id=TaskId(f"t{number}")))
    world.now_ms += 8 * DAY_MS
    left = []
    while world.do(c.ExpireRecords()).ids == (MORE,):
        left.append(len(world.state.tasks))
    assert left == [3, 1]
    assert len(world.state.tasks) == 0


def test_a_command_says_how_much_is_forgotten_at_once(world: World) -> None:
    """And what goes on judges by the same time: else a wrong clock would gain with each step."""
    for number in range(5):
        world.submit(f"t{number}", request_id=f"r{number}")
        world.do(c.CancelTask(task_id=TaskId(f"t{number}")))
    world.do(c.ExpireRecords())
    world.now_ms += 8 * DAY_MS
    world.state.judged_at_ms = world.now_ms
    step = c.ExpireRecords(count_max=2)
    assert decode_command(encode_command(c.Command(at_ms=1, body=step))).body == step
    assert world.do(step).ids == (MORE,)
    assert len(world.state.tasks) == 3
    judged_at_ms = world.state.judged_at_ms
    world.now_ms += DAY_MS
    on = c.ExpireRecords(count_max=2, goes_on=True)
    assert decode_command(encode_command(c.Command(at_ms=1, body=on))).body == on
    while world.do(on).ids == (MORE,):
        assert world.state.judged_at_ms == judged_at_ms
    assert len(world.state.tasks) == 0


def test_the_removal_of_a_node_goes_through_no_files(world: World) -> None:
    """Every master stood still for as long as that took: 0.4 s for 250,000 files."""
    world.do(c.AddContent(cid="a", size_bytes=1, holders=(MASTER, WORKER), name=""))
    before = world.state.contents["a"]
    world.do(c.RemoveNode(node_id=WORKER))
    assert world.state.contents["a"] is before
    assert world.state.holders_of(before) == (MASTER,)
    again = ClusterState(decode_snapshot(encode_snapshot(world.state.data())))
    assert again.holders_of(again.contents["a"]) == (MASTER,)
    # Who gets it next does not keep the name of who is gone.
    world.do(c.AddContent(cid="a", size_bytes=1, holders=(OTHER,), name=""))
    assert world.state.contents["a"].holders == (MASTER, OTHER)
    assert list(world.state.content_cids.after("")) == ["a"]


def test_answers_that_are_over_a_lowered_limit_go_some_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipfs_cluster_node.core.state.REQUESTS_DROPPED_MAX", 100)
    for number in range(1500):
        world.do(c.ProposeConfig(values={"user.a": str(number)}, if_values={}), f"r{number}")
    world.do(config("request_count_max", "1000"), "lowered")
    assert len(world.state._requests) == 1401
    for number in range(10):
        world.do(config("user.a", "x"), f"after{number}")
    assert len(world.state._requests) == 1000


def config(key: str, value: str, if_value: str | None = None) -> c.ProposeConfig:
    if_values = {} if if_value is None else {key: if_value}
    return c.ProposeConfig(values={key: value}, if_values=if_values)


def test_bounds_refuse_and_say_so(world: World) -> None:
    world.do(config("task_count_max", "1"))
    world.submit("t")
    assert world.submit("u").reason is Reason.TOO_MANY_TASKS
    assert world.submit("u", spec=TaskSpec(task_type="none")).reason is Reason.TOO_MANY_TASKS
    world.do(config("task_count_max", "9"))
    assert world.submit("u", spec=TaskSpec(task_type="none")).reason is Reason.TASK_TYPE_UNKNOWN
    assert world.do(config("node_lease", "1h")).reason is Reason.INVALID_ARGUMENT


JOINER_DID = did_from_public_key(KEYS[3])


def redeem(world: World, secret: bytes = b"s", did: Did = JOINER_DID):  # type: ignore[no-untyped-def]
    return world.do(
        c.RedeemJoinToken(token_id="k", secret_hash=secret, did=did, name="j", endpoints=("a:1",))
    )


@pytest.fixture
def token() -> c.CreateJoinToken:
    return c.CreateJoinToken(
        token_id="k",
        secret_hash=b"s",
        role=Role.MASTER,
        expires_at_ms=9_000,
        uses_max=1,
        addresses=(),
    )


def test_a_token_lets_one_in_and_gives_a_master_a_new_incarnation(
    world: World, token: c.CreateJoinToken
) -> None:
    world.do(token)
    assert redeem(world) == Accepted(("master", "2", ""))
    assert redeem(world, did=CLIENT).reason is Reason.TOKEN_USED


def test_a_token_ends_and_is_locked_by_wrong_secrets(
    world: World, token: c.CreateJoinToken
) -> None:
    assert redeem(world).reason is Reason.TOKEN_INVALID
    world.do(token)
    for _ in range(10):
        assert redeem(world, b"wrong").reason is Reason.TOKEN_INVALID
    assert redeem(world).reason is Reason.TOKEN_USED
    world.do(replace(token, token_id="k2"))
    world.now_ms = 9_000
    late = c.RedeemJoinToken(token_id="k2", secret_hash=b"s", did=CLIENT, name="j", endpoints=())
    assert world.do(late).reason is Reason.TOKEN_EXPIRED


def test_a_token_may_fix_the_addresses(world: World, token: c.CreateJoinToken) -> None:
    world.do(replace(token, addresses=("b:1",)))
    assert redeem(world).reason is Reason.INVALID_ARGUMENT


def test_a_result_names_the_worker_as_a_holder(world: World) -> None:
    world.do(c.AddContent(cid="b", size_bytes=1, holders=(MASTER,), name=""))
    world.submit("t")
    world.assign()
    outcome = AttemptOutcome(id=AttemptId(T, 1), result=TaskResult(cid="b", size_bytes=1))
    world.do(c.FinishAttempts(node_id=WORKER, outcomes=(outcome,)))
    assert list(world.state.holders_of(world.state.contents["b"])) == [MASTER, WORKER]
    world.do(c.RemoveNode(node_id=WORKER))
    assert list(world.state.holders_of(world.state.contents["b"])) == [MASTER]


def test_liveness_is_noted_once(world: World) -> None:
    world.do(c.SetLiveness(dead=(WORKER,)))
    node = world.state.members.node(WORKER)
    assert node is not None
    assert node.liveness is Liveness.DEAD


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "assign", "finish", "fail", "lose", "cancel", "dead", "alive"]),
        st.integers(0, 5),
    ),
    max_size=60,
)


def step(world: World, kind: str, number: int) -> None:
    task_id = TaskId(f"t{number}")
    task = world.state.tasks.get(task_id)
    attempt = AttemptId(task_id, task.attempt if task else 1)
    node = (WORKER, OTHER)[number % 2]
    world.now_ms += 1
    match kind:
        case "submit":
            if task is None:
                world.submit(task_id, request_id=f"r{number}")
        case "assign":
            world.assign(task_id, node)
        case "finish" | "fail":
            good = kind == "finish"
            outcome = AttemptOutcome(
                id=attempt,
                result=TaskResult(data=b"r") if good else None,
                failure=None if good else TaskFailure(Reason.HANDLER_FAILED, "no"),
                retryable=not good,
            )
            world.do(c.FinishAttempts(node_id=node, outcomes=(outcome,)))
        case "lose":
            world.do(c.RequeueAttempts(ids=(attempt,)))
        case "cancel":
            world.do(c.CancelTask(task_id=task_id))
        case "dead":
            world.do(c.SetLiveness(dead=(node,)))
        case "alive":
            world.do(c.SetLiveness(alive=(node,)))


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(0, 60))
def test_a_replica_restored_from_a_snapshot_goes_on_alike(
    steps: list[tuple[str, int]], restart_after: int
) -> None:
    always, restored = World(), World()
    for position, (kind, number) in enumerate(steps):
        if position == restart_after:
            restored.state = ClusterState(decode_snapshot(encode_snapshot(restored.state.data())))
        step(always, kind, number)
        step(restored, kind, number)
    assert list(encode_snapshot(always.state.data())) == list(
        encode_snapshot(restored.state.data())
    )
    counts = dict.fromkeys(TaskState, 0)
    for task in always.state.tasks:
        counts[task.state] += 1
        assert (task.result is not None) == (task.state is TaskState.SUCCEEDED)
    assert counts == always.state.tasks.counts
    fresh = TaskTable(always.state.tasks.copy())
    assert fresh.stored_bytes == always.state.tasks.stored_bytes


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 5), st.integers(0, 5))
def test_a_plan_keeps_to_credit_priority_and_types(
    priorities: list[int], credit_a: int, credit_b: int
) -> None:
    table = TaskTable()
    for number, priority in enumerate(priorities):
        spec = TaskSpec(task_type="echo" if number % 3 else "other", priority=priority)
        table.submit(TaskId(f"t{number}"), spec, CLIENT, 0)
    offers = {
        WORKER: WorkerOffer(WORKER, frozenset({"echo"}), credit_a),
        OTHER: WorkerOffer(OTHER, frozenset({"echo", "other"}), credit_b),
    }
    planned = plan(table, offers, count_max=100)
    assert len({task_id for task_id, _ in planned}) == len(planned)
    for node, credit in ((WORKER, credit_a), (OTHER, credit_b)):
        mine = [table.get(task_id) for task_id, where in planned if where == node]
        assert len(mine) <= credit
        assert all(t is not None and t.spec.task_type in offers[node].task_types for t in mine)
    echo = [p for n, p in enumerate(priorities) if n % 3]
    if credit_a + credit_b and echo:
        assert planned, "somebody is free and something waits"


def test_one_list_of_reasons_holds_everywhere() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}
    assert names - {"UNSPECIFIED"} == {reason.value for reason in Reason}
    assert all(status_of(reason).name == reason.status for reason in Reason)


def test_an_attempt_that_its_worker_gave_up_is_lost_and_not_failed(world: World) -> None:
    """Found by killing leaders: a worker whose lease ran out left its tasks assigned for ever."""
    world.submit("t")
    world.assign()
    gave_up = TaskFailure(Reason.WORKER_LOST, "the worker's lease ran out")
    outcome = AttemptOutcome(id=AttemptId(T, 1), failure=gave_up, retryable=True)
    world.do(c.FinishAttempts(node_id=WORKER, outcomes=(outcome,)))
    assert (world.task().state, world.task().failed_count) == (TaskState.PENDING, 0)
    assert world.task().lost_count == 1


def test_the_oldest_answers_are_pushed_out_and_never_is_a_request_refused() -> None:
    world = World()
    world.do(config("request_count_max", "1000"), "first")
    for number in range(1500):
        body = config("user.n", str(number))
        assert isinstance(world.do(body, f"r{number}"), Accepted)
    assert len(world.state.data().requests) == 1000
    repeat = config("user.n", "1499")
    world.do(config("user.n", "later"), "other")
    assert isinstance(world.do(repeat, "r1499"), Accepted)
    assert world.state.settings.text("user.n") == "later"  # Known: not carried out again.


def test_a_request_id_with_other_content_is_refused_for_settings_too() -> None:
    world = World()
    world.do(config("user.a", "1"), "same")
    for body in (
        config("user.a", "2"),
        config("user.b", "1"),
        config("user.a", "1", ""),
    ):
        outcome = world.do(body, "same")
        assert isinstance(outcome, Rejected)
        assert outcome.reason is Reason.REQUEST_ID_REUSED


def test_settings_change_together_or_not_at_all() -> None:
    world = World()
    world.do(config("user.a", "1"))
    for bad, expected, reason in (
        ({"node_lease": "1h"}, {}, Reason.INVALID_ARGUMENT),
        ({"other": "1"}, {}, Reason.INVALID_ARGUMENT),
        ({"user.b": "1"}, {"user.b": "0"}, Reason.CONFIG_CHANGED),
        ({"user.b": "1"}, {"user.a": ""}, Reason.CONFIG_CHANGED),
    ):
        values = {"user.a": "2", "task_retention": "1d", **bad}
        assert world.do(c.ProposeConfig(values=values, if_values=expected)).reason is reason
        assert world.state.settings.changed == {"user.a": "1"}
        assert world.state.settings["task_retention"] == 7 * 86_400_000
    # A swap for another key fits where there is no room for one more.
    many = {f"user.n{n}": "1" for n in range(999)}
    assert isinstance(world.do(c.ProposeConfig(values=many)), Accepted)
    assert world.do(config("user.last", "1")).reason is Reason.INVALID_ARGUMENT
    swap = {"user.last": "1", "user.a": "", "user.never": ""}
    assert isinstance(world.do(c.ProposeConfig(values=swap, if_values={"user.a": "1"})), Accepted)
    assert isinstance(world.do(config("node_lease", "6s")), Accepted)  # The cluster's own go on.
    assert len(world.state.settings.changed) == 1001


def test_keys_of_the_users_hold_any_text_and_go_when_empty() -> None:
    world = World()

    def change(key: str, value: str, if_value: str | None = None) -> object:
        body = config(key, value, if_value)
        outcome = world.do(body)
        return outcome.reason if isinstance(outcome, Rejected) else "done"

    assert change("user.a", "x" * 1024) == "done"
    assert change("user.a", "x" * 1025) is Reason.INVALID_ARGUMENT
    for key in ("user.", "user.-", "user.a b", "user." + "x" * 59, "User.a", "other"):
        assert change(key, "1") is Reason.INVALID_ARGUMENT
    assert change("user.b", "1", if_value="0") is Reason.CONFIG_CHANGED
    assert change("user.b", "1", if_value="") == "done"
    assert change("user.b", "2", if_value="1") == "done"
    assert change("node_lease", "6s", if_value="5s") == "done"
    assert change("user.b", "", if_value="2") == "done"
    assert "user.b" not in world.state.settings.keys()
    again = ClusterState(decode_snapshot(encode_snapshot(world.state.data())))
    assert again.settings.text("user.a") == "x" * 1024
    for number in range(998):
        change(f"user.n{number}", "1")
    assert change("user.last", "1") is Reason.INVALID_ARGUMENT
    assert change("user.a", "2") == "done"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (c.CancelTask(task_id=TaskId("a")), c.CancelTask(task_id=TaskId("b"))),
        (c.RemoveNode(node_id=WORKER), c.RemoveNode(node_id=OTHER)),
        (c.RemoveNode(node_id=WORKER), c.CancelTask(task_id=TaskId("a"))),
    ],
)
def test_a_reused_request_id_is_never_answered_as_done(
    world: World, first: c.CommandBody, second: c.CommandBody
) -> None:
    world.submit("a")
    world.submit("b")
    assert isinstance(world.do(first, "same"), Accepted)
    assert isinstance(world.do(first, "same"), Accepted)
    refused = world.do(second, "same")
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.REQUEST_ID_REUSED


def test_who_was_removed_is_not_let_in_again_by_repeating_its_enrolment(
    world: World, token: c.CreateJoinToken
) -> None:
    world.do(token)
    did = did_from_public_key(KEYS[3])
    body = c.RedeemJoinToken(token_id="k", secret_hash=b"s", did=did, name="j", endpoints=("a:1",))
    assert isinstance(world.do(body, "join", caller=did), Accepted)
    assert isinstance(world.do(body, "join", caller=did), Accepted)
    other = replace(body, endpoints=("evil:1",))
    assert isinstance(world.do(other, "join", caller=did), Rejected)
    world.do(c.RemoveNode(node_id=JOINER))
    refused = world.do(body, "join", caller=did)
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.TOKEN_USED


def test_a_client_can_be_removed(world: World) -> None:
    world.do(
        c.CreateJoinToken(
            token_id="c",
            secret_hash=b"s",
            role=Role.CLIENT,
            expires_at_ms=10_000,
            uses_max=1,
            addresses=(),
        )
    )
    did = did_from_public_key(KEYS[3])
    body = c.RedeemJoinToken(token_id="c", secret_hash=b"s", did=did, name="p", endpoints=())
    assert isinstance(world.do(body), Accepted)
    assert isinstance(world.do(c.RemoveNode(node_id=JOINER)), Accepted)
    member = world.state.members.get(did)
    assert member is not None
    assert member.removed


def test_a_lost_log_is_replaced_under_a_name_that_none_was_kept_under(world: World) -> None:
    ask = c.ReplaceLog(node_id=MASTER, incarnation=1)
    assert world.do(ask, "first") == Accepted(("2",))
    # A repeat gets the first answer, whatever incarnation the leader saw when it proposed it.
    repeated = c.ReplaceLog(node_id=MASTER, incarnation=2)
    assert world.do(repeated, "first") == Accepted(("2",))
    # Another request does not: nobody knows whether a log was begun under the first answer.
    assert world.do(repeated, "second") == Accepted(("3",))
    # What the leader saw has changed meanwhile.
    refused = world.do(repeated, "third")
    assert refused.reason is Reason.MEMBERSHIP_CHANGE_IN_PROGRESS
    member = world.state.members.node(MASTER)
    assert member is not None
    assert member.incarnation == 3
    # Nor does a joining master get a name that was given already.
    assert world.state.data().incarnation_last == 3


def test_only_a_masters_own_log_is_replaced(world: World) -> None:
    members = world.state.members
    world.do(c.ReplaceLog(node_id=MASTER, incarnation=1), "first")
    for damaged, votes, reason in (
        (2, True, None),
        (2, False, None),
        (0, True, None),  # It can't say which: the directory is gone.
        (1, False, None),  # The answer was lost.
        (1, True, Reason.CALLER_NOT_ALLOWED),  # An old disk came back.
        (3, False, Reason.CALLER_NOT_ALLOWED),
    ):
        refused = members.check_replacement(MASTER, damaged, votes=votes)
        assert (refused.reason if refused else None) is reason, (damaged, votes)
    for other in (WORKER, JOINER):
        refused = members.check_replacement(other, 0, votes=False)
        assert refused is not None
        assert refused.reason is Reason.MEMBER_NOT_FOUND
    world.do(c.RemoveNode(node_id=MASTER))
    refused = members.check_replacement(MASTER, 2, votes=False)
    assert refused is not None
    assert refused.reason is Reason.MEMBER_NOT_FOUND
