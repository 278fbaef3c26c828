"""A node's settings: files, variables and flags, valid and invalid."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.config.home import HOME_VARIABLE
from ipfs_cluster_node.config.profiles import (
    CLIENT_VARIABLES,
    JOIN_TOKEN_VARIABLE,
    KIT_DIRECTORY_VARIABLE,
    PROFILES_VARIABLE,
)
from ipfs_cluster_node.config.settings import (
    ClusterSection,
    NodeSection,
    NodeSettings,
    RaftSection,
    TaskSection,
    load_settings,
    names_file,
    write_settings,
)
from ipfs_cluster_node.config.units import parse_duration, parse_size, toml_text
from ipfs_cluster_node.core.errors import ClusterError, Reason

GOOD = """
[node]
name = "n"
role = "master"
[cluster]
id = "c"
name = "cluster"
"""


def load(tmp_path: Path, text: str, **options: Any) -> NodeSettings:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load_settings(path, **{"environment": {}, **options})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "node.name is wrong: it is missing"),
        ("[node", "can't be read"),
        (GOOD.replace("[node]", "[nodes]"), "did you mean node?"),
        (GOOD.replace("role", "rôle"), "can't be read"),
        (GOOD + "[node2]\n", "did you mean node?"),
        (GOOD + "loose = 1\n", "'loose' is not known"),
        (GOOD.replace('"master"', '"king"'), "write master, worker or leecher"),
        (GOOD + "[tasks]\nslots = 2000\n", "-1 to 1024"),
        (GOOD + "[tasks]\nslots = true\n", "a whole number"),
        (GOOD + "[tasks]\nslots = 1.5\n", "a whole number"),
        (GOOD + '[tasks]\nslots = "x"\n', "tasks.slots is wrong"),
        (GOOD + '[tasks]\nslot = "1"\n', "did you mean slots?"),
        (GOOD + '[tasks]\nmemory_max = "lots"\n', "tasks.memory_max is wrong"),
        (GOOD + '[tasks]\nmemory_max = "9EB"\n', "not a size"),
        (GOOD + "[storage]\nlog_reserve = -1\n", "storage.log_reserve is wrong"),
        (GOOD + "[tasks]\nhandlers = [1]\n", "a string in quotes"),
        (GOOD + "[tasks]\nhandlers = 1\n", "a list such as"),
        (GOOD + "[tasks]\nhandlers = ['mine.py']\n", "not an absolute path"),
        (GOOD + "[raft]\nheartbeat_interval = 5\n", "a string in quotes"),
        (GOOD + '[raft]\nheartbeat_interval = "soon"\n', "not a duration"),
        (GOOD.replace('"n"', '"n"\nbind = "nowhere"'), "is not an address"),
        (GOOD.replace('"n"', '"n"\nbind = "127.0.0.1:70000"'), "is not an address"),
        (GOOD.replace('"n"', '"n"\nbind = "0.0.0.0:9096"'), "--advertise"),
        (GOOD.replace('"n"', '"n"\nadvertise = ["a"]'), "node.advertise"),
        (GOOD.replace('"n"', '"a b"'), "node.name is wrong"),
    ],
)
def test_a_bad_file_is_refused_and_the_fault_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ClusterError) as caught:
        load(tmp_path, text)
    assert caught.value.reason is Reason.CONFIG_INVALID
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_bytes_that_are_no_text_and_an_absent_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for make in (lambda: path.write_bytes(b"\xff\xfe\x00"), path.unlink, path.mkdir):
        make()
        with pytest.raises(ClusterError) as caught:
            load_settings(path, environment={})
        assert caught.value.reason is Reason.CONFIG_INVALID


def test_variables_go_before_the_file_and_flags_before_variables(tmp_path: Path) -> None:
    text = GOOD + '[tasks]\nslots = 1\nmemory_max = "64MiB"\n'
    variables = {
        "IPFS_CLUSTER_NODE_TASKS_SLOTS": "2",
        "IPFS_CLUSTER_NODE_TASKS_HANDLERS": "a, b",
        "IPFS_CLUSTER_NODE_RAFT_ELECTION_TIMEOUT_MIN": "700ms",
        "IPFS_CLUSTER_NODE_STORAGE_LOG_RESERVE": "256KiB",
        "IPFS_CLUSTER_NODE_HOME": "/elsewhere",
        "UNRELATED": "x",
    }
    settings = load(tmp_path, text, environment=variables)
    assert settings.tasks == TaskSection(slots=2, handlers=("a", "b"), memory_max=64 * 2**20)
    assert settings.raft.election_timeout_min == timedelta(milliseconds=700)
    assert settings.storage.log_reserve == 256 * 2**10
    flags = {"tasks.slots": 3, "node.bind": None}
    assert load(tmp_path, text, environment=variables, flags=flags).tasks.slots == 3


@pytest.mark.parametrize(
    ("enrolment_bind", "reached"),
    [
        ("10.0.0.1:9095", ("10.0.0.1:9095",)),
        ("0.0.0.0:9095", ("a.example:9095", "[fd00::1]:9095")),
        ("[::]:9095", ("a.example:9095", "[fd00::1]:9095")),
    ],
)
def test_joiners_are_told_an_address_that_they_can_reach(
    enrolment_bind: str, reached: tuple[str, ...]
) -> None:
    settings = NodeSettings(
        node=NodeSection(
            name="n",
            role="master",
            bind="0.0.0.0:9096",
            enrolment_bind=enrolment_bind,
            advertise=("a.example:9096", "a.example:9097", "[fd00::1]:9096"),
        ),
        cluster=ClusterSection(id="c", name="c"),
    )
    assert settings.enrolment_endpoints == reached


def test_an_unknown_variable_is_refused_by_its_name(tmp_path: Path) -> None:
    for name in ("IPFS_CLUSTER_NODE_TASKS_SLOT", "IPFS_CLUSTER_NODE_TASK_SLOTS"):
        with pytest.raises(ClusterError) as caught:
            load(tmp_path, GOOD, environment={name: "1"})
        assert name in caught.value.message


def test_what_a_client_is_told_stops_no_node(tmp_path: Path) -> None:
    options = [option for option in main.params if isinstance(option, click.Option)]
    of_options = {option.envvar for option in options if isinstance(option.envvar, str)}
    assert of_options == CLIENT_VARIABLES - {
        PROFILES_VARIABLE,
        KIT_DIRECTORY_VARIABLE,
        JOIN_TOKEN_VARIABLE,
    }
    variables = dict.fromkeys((*CLIENT_VARIABLES, HOME_VARIABLE), "x")
    assert load(tmp_path, GOOD, environment=variables) == load(tmp_path, GOOD)
    for near in ("IPFS_CLUSTER_NODE_UCANS", "IPFS_CLUSTER_NODE_PROFIL"):
        with pytest.raises(ClusterError) as caught:
            load(tmp_path, GOOD, environment={near: "x"})
        assert near in caught.value.message


@given(
    cluster_name=st.text(max_size=40),
    handlers=st.text(max_size=20).map(lambda text: f"/{text}" if names_file(text) else text),
    milliseconds=st.integers(600, 60_000),
    memory=st.integers(1, 2**20),
)
def test_what_is_written_reads_back(
    tmp_path_factory: pytest.TempPathFactory,
    cluster_name: str,
    handlers: str,
    milliseconds: int,
    memory: int,
) -> None:
    settings = NodeSettings(
        node=NodeSection(name="n", role="worker"),
        cluster=ClusterSection(id="c", name=cluster_name),
        raft=RaftSection(
            election_timeout_min=timedelta(milliseconds=milliseconds),
            election_timeout_max=timedelta(milliseconds=2 * milliseconds),
        ),
        tasks=TaskSection(handlers=(handlers,), memory_max=memory * 2**20),
    )
    assert load(tmp_path_factory.mktemp("s"), write_settings(settings)) == settings


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "1e3s", "٣s", "9999999999s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36501d", "999999999.9d", "999999999d"])
def test_what_lasts_too_long_is_refused(text: str) -> None:
    """The longest of them was an OverflowError once."""
    with pytest.raises(ValueError, match="the maximum is 36500d"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "5", "MiB", "-1B", "1.5GiB", "1MB", "٣B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_size(text)


def test_toml_takes_no_key_out_of_a_text() -> None:
    assert toml_text('a"\n[x]\\\x7f') == '"a\\U00000022\\U0000000A[x]\\U0000005C\\U0000007F"'
