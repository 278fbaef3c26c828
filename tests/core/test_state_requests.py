"""Requests and settings in the replicated state: repeats, what is forgotten, what is refused."""

import pytest

from ipfs_cluster_node.codec.commands import decode_command, encode_command
from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import TaskSpec
from ipfs_cluster_node.core.state import MORE, ClusterState
from tests.support.worlds import DAY_MS, OTHER, WORKER, World, config


def test_a_repeat_gets_the_first_answer_and_other_content_is_refused(world: World) -> None:
    first = world.submit("t", request_id="r")
    assert world.submit("u", request_id="r") == first
    assert world.state.tasks.get(TaskId("u")) is None
    other = world.submit("v", request_id="r", spec=TaskSpec(task_type="echo", payload=b"y"))
    assert isinstance(other, Rejected)
    assert other.reason is Reason.REQUEST_ID_REUSED


def test_a_second_cancellation_is_refused_in_plain_words(world: World) -> None:
    world.submit("t")
    world.do(c.CancelTask(task_id=TaskId("t")))
    again = world.do(c.CancelTask(task_id=TaskId("t")))
    assert again == Rejected(Reason.TASK_FINISHED, "the task was already cancelled; see `task get`")


def test_answers_and_ended_tasks_are_forgotten_after_their_time(world: World) -> None:
    world.submit("t", request_id="r")
    world.assign()
    world.finish(1)
    world.now_ms += 8 * DAY_MS
    world.do(c.ExpireRecords())
    assert len(world.state.tasks) == 0
    assert world.submit("u", request_id="r") == Accepted(("u",))


def test_much_is_forgotten_in_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once would block every master at the same time."""
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
    """A continued command uses the same time: otherwise a wrong clock would advance it with each step."""
    for number in range(5):
        world.submit(f"t{number}", request_id=f"r{number}")
        world.do(c.CancelTask(task_id=TaskId(f"t{number}")))
    world.do(c.ExpireRecords())
    world.now_ms += 8 * DAY_MS
    world.state.judged_at_ms = world.now_ms
    step = c.ExpireRecords(count_max=2)
    assert decode_command(encode_command(c.LogCommand(at_ms=1, body=step))).body == step
    assert world.do(step).ids == (MORE,)
    assert len(world.state.tasks) == 3
    judged_at_ms = world.state.judged_at_ms
    world.now_ms += DAY_MS
    on = c.ExpireRecords(count_max=2, goes_on=True)
    assert decode_command(encode_command(c.LogCommand(at_ms=1, body=on))).body == on
    while world.do(on).ids == (MORE,):
        assert world.state.judged_at_ms == judged_at_ms
    assert len(world.state.tasks) == 0


def test_answers_that_are_over_a_lowered_limit_go_some_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipfs_cluster_node.core.requests.REQUESTS_DROPPED_MAX", 100)
    for number in range(1500):
        world.do(c.ProposeConfig(values={"user.a": str(number)}, if_values={}), f"r{number}")
    world.do(config("request_count_max", "1000"), "lowered")
    assert len(world.state.requests) == 1401
    for number in range(10):
        world.do(config("user.a", "x"), f"after{number}")
    assert len(world.state.requests) == 1000


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
