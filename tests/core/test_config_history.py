"""The versions of the settings: what is kept, how one goes back, what a refusal leaves."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core import config_history
from ipfs_cluster_node.core.config_history import ConfigVersion
from ipfs_cluster_node.core.effects import Accepted, Answer, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.settings import (
    CHANGES_MAX,
    SETTINGS,
    USER_VALUE_CHARS_MAX,
    ClusterConfig,
    SettingKind,
    stored_values,
)
from ipfs_cluster_node.core.state import ClusterState
from tests.support.worlds import OTHER, World

KEYS = ("node_lease", "task_count_max", "user.a", "user.b", "user.c")
VALUES = {
    "node_lease": ("", "5s", "6s", "1m"),
    "task_count_max": ("", "200000", "7"),
    "user.a": ("", "1", "ä\x00"),
    "user.b": ("", "1", "2"),
    "user.c": ("", "x"),
}


def set_(world: World, values: Mapping[str, str], **if_values: str) -> Answer:
    body = c.ProposeConfig(values=values, if_values=if_values, with_version=True)
    answer: Answer = world.do(body)
    return answer


def go_back(world: World, number: int) -> Answer:
    state = world.state
    values = state.config_history.way_back(number, state.settings)
    if not values:
        return Accepted()
    expected = {key: state.settings.text(key) for key in values}
    return set_(world, values, **expected)


def test_a_version_says_who_changed_what_and_when() -> None:
    world = World()
    world.now_ms = 1_800_000_000_123
    body = c.ProposeConfig(values={"node_lease": "6s", "user.a": "1"}, with_version=True)
    world.state.apply(c.LogCommand(at_ms=world.now_ms, body=body, caller=OTHER))
    assert world.state.data().config_versions == (
        ConfigVersion(
            number=1,
            at_ms=world.now_ms,
            by=OTHER,
            before={"node_lease": "", "user.a": ""},
            after={"node_lease": "6s", "user.a": "1"},
        ),
    )


def test_a_version_has_what_changed_and_there_is_none_of_a_proposal_that_changes_nothing() -> None:
    world = World()
    set_(world, {"user.a": "1", "user.b": "1"})
    set_(world, {"user.a": "1", "user.b": "2", "user.never": ""})
    set_(world, {"user.a": "1", "user.never": ""})
    assert [dict(each.after) for each in world.state.config_history.values()] == [
        {"user.a": "1", "user.b": "1"},
        {"user.b": "2"},
    ]


def test_an_older_log_has_no_versions_and_refuses_an_empty_value() -> None:
    world = World()
    world.do(c.ProposeConfig(values={"user.a": "1"}))
    refused = world.do(c.ProposeConfig(values={"node_lease": ""}))
    assert isinstance(refused, Rejected)
    assert world.state.data().config_versions == ()


def test_an_empty_value_returns_a_setting_to_its_default() -> None:
    world = World()
    set_(world, {"node_lease": "1m"})
    set_(world, {"node_lease": ""})
    assert world.state.settings["node_lease"] == 5000
    assert world.state.settings.changed == {}


@pytest.mark.parametrize(
    ("values", "if_values", "reason", "named"),
    [
        ({"node_lease": "1h"}, {}, Reason.INVALID_ARGUMENT, "node_lease"),
        ({"node_lease": "soon"}, {}, Reason.INVALID_ARGUMENT, "node_lease"),
        ({"task_count_max": "-1"}, {}, Reason.INVALID_ARGUMENT, "task_count_max"),
        ({"node_leese": "6s"}, {}, Reason.INVALID_ARGUMENT, "did you mean node_lease?"),
        ({"colour": "red"}, {}, Reason.INVALID_ARGUMENT, "did you mean user.colour?"),
        ({"user.long": "x" * 1025}, {}, Reason.INVALID_ARGUMENT, "user.long"),
        ({"user.b": "1"}, {"user.a": "0"}, Reason.CONFIG_CHANGED, "user.a"),
    ],
)
def test_a_refused_proposal_changes_nothing_and_names_the_field(
    values: dict[str, str], if_values: dict[str, str], reason: Reason, named: str
) -> None:
    world = World()
    set_(world, {"user.a": "1"})
    before = world.state.data()
    answer = set_(world, {"user.b": "2", "task_retention": "1d", **values}, **if_values)
    assert isinstance(answer, Rejected)
    assert answer.reason is reason
    assert named in answer.message
    assert world.state.data() == before


def test_only_the_newest_versions_are_kept() -> None:
    world = World()
    for number in range(config_history.VERSIONS_MAX + 3):
        set_(world, {"user.a": str(number)})
    history = world.state.config_history
    assert [*history] == [*range(4, config_history.VERSIONS_MAX + 4)]
    assert history.kept == range(3, config_history.VERSIONS_MAX + 4)
    assert go_back(world, 3) == Accepted()
    assert world.state.settings.text("user.a") == "2"
    for number in (3, 99_999):
        with pytest.raises(LookupError, match=f"no version {number}; one can go back to 4 to"):
            history.way_back(number, world.state.settings)


def test_versions_are_bounded_in_memory_and_the_newest_stays() -> None:
    world = World()
    for number in range(12):
        set_(world, {f"user.k{n}": str(number % 10) * USER_VALUE_CHARS_MAX for n in range(900)})
    kept = world.state.data().config_versions
    assert 1 <= len(kept) < 12
    assert sum(each.stored_bytes for each in kept) <= config_history.VERSIONS_BYTES_MAX
    assert kept[-1].number == 12
    assert ClusterState(world.state.data()).data() == world.state.data()


def test_the_newest_version_stays_though_it_alone_is_beyond_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config_history, "VERSIONS_BYTES_MAX", 10)
    world = World()
    for value in ("1", "x" * 20, "2"):
        set_(world, {"user.a": value})
        assert len(world.state.config_history) == 1
    assert go_back(world, 2) == Accepted()
    assert world.state.settings.text("user.a") == "x" * 20


def test_a_change_between_makes_going_back_a_conflict() -> None:
    world = World()
    set_(world, {"user.a": "1"})
    set_(world, {"user.a": "2"})
    state = world.state
    values = state.config_history.way_back(1, state.settings)
    set_(world, {"user.a": "3"})
    late = set_(world, values, **{"user.a": "2"})
    assert isinstance(late, Rejected)
    assert late.reason is Reason.CONFIG_CHANGED
    assert state.settings.text("user.a") == "3"


changes = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3), min_size=1)


@given(st.lists(st.one_of(changes, st.integers(0, 30)), max_size=30))
def test_going_back_gives_the_very_settings_of_any_version(
    steps: list[dict[str, int] | int],
) -> None:
    """Against a list of all settings that there ever were."""
    world = World()
    model = [encoded_settings(world)]
    for step in steps:
        if isinstance(step, int):
            number = step % len(model)
            assert isinstance(go_back(world, number), Accepted)
            assert encoded_settings(world) == model[number]
        else:
            values = {key: VALUES[key][at % len(VALUES[key])] for key, at in step.items()}
            assert isinstance(set_(world, values), Accepted)
        now = encoded_settings(world)
        if now != model[-1]:
            model.append(now)
        assert world.state.config_history.newest == len(model) - 1
    again = ClusterState(decode_snapshot(encode_snapshot(world.state.data())))
    assert again.data() == world.state.data()


def encoded_settings(world: World) -> bytes:
    """The settings as a snapshot has them."""
    config = dict(sorted(world.state.settings.changed.items()))
    assert ClusterConfig(config)._values == world.state.settings._values
    return repr(config).encode()


def test_values_are_taken_in_any_unit() -> None:
    asked = {
        "node_lease": "0.5m",
        "task_retention": "1w2d",
        "certificate_lifetime": "1h30m",
        "request_retention": "90m",
        "task_bytes_max": "1.5GiB",
        "user.a": "1h30m",
    }
    assert stored_values(asked) == {
        "node_lease": "30s",
        "task_retention": "9d",
        "certificate_lifetime": "90m",
        "request_retention": "90m",
        "task_bytes_max": str(3 * 2**29),
        "user.a": "1h30m",
    }
    for key, text in (
        ("node_lease", "0.0001s"),
        ("node_lease", "5 s"),
        ("node_lease", "5"),
        ("task_bytes_max", "0.3B"),
        ("task_bytes_max", "1GB"),
        ("task_count_max", "1KiB"),
    ):
        assert stored_values({key: text}) == {key: text}
        with pytest.raises(ValueError, match=key):
            SETTINGS[key].parse(text)


def test_each_setting_takes_its_default_and_the_ends_of_its_range() -> None:
    for key, setting in SETTINGS.items():
        for text in (setting.default, setting.minimum, setting.maximum):
            assert setting.stored(text) == text
            assert setting.parse(text) >= 0
        assert setting.kind is not SettingKind.TEXT, key
        unit = "ms" if setting.kind is SettingKind.DURATION else ""
        for beyond in (setting.parse(setting.minimum) - 1, setting.parse(setting.maximum) + 1):
            with pytest.raises(ValueError, match=key):
                setting.parse(f"{beyond}{unit}")


def test_many_proposals_in_any_order_give_one_history() -> None:
    rng = random.Random(1)
    world = World()
    for number in rng.sample(range(CHANGES_MAX), CHANGES_MAX):
        set_(world, {"user.a": str(number)})
    values = [each.after["user.a"] for each in world.state.config_history.values()]
    assert sorted(map(int, values)) == [*range(CHANGES_MAX)]


def test_a_revert_does_not_end_a_pause_of_deletion() -> None:
    """After a recovery an older version has no pause: blocks that no log names would go."""
    world = World()
    set_(world, {"user.a": "1"})
    set_(world, {"block_deletion_paused": "1", "user.a": "2"})
    state = world.state
    assert state.config_history.way_back(1, state.settings) == {"user.a": "1"}
    set_(world, {"block_deletion_paused": "0"})
    assert state.config_history.way_back(1, state.settings) == {
        "block_deletion_paused": "",
        "user.a": "1",
    }
