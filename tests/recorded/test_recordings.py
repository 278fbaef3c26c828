"""Every release reads what each earlier one wrote, to the same state."""

import json
import shutil
from pathlib import Path
from typing import get_args

import pytest

from ipfs_cluster_node import __version__
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.codec.commands import decode_command, encode_command
from ipfs_cluster_node.core.certificates import RotationPhase
from ipfs_cluster_node.core.commands import CommandBody
from ipfs_cluster_node.core.model import Liveness, Role, TaskState
from ipfs_cluster_node.core.settings import SETTINGS
from tests.recorded.history import commands
from tests.recorded.plain import differences, plain, unused_fields
from tests.recorded.recorder import FACTS, JOURNAL, RECORDINGS, SNAPSHOT, facts_of, record

VERSIONS = sorted(path.name for path in RECORDINGS.glob("v*"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("store", [JOURNAL, SNAPSHOT])
def test_what_a_release_wrote_is_read_as_it_was_meant(
    version: str, store: str, tmp_path: Path
) -> None:
    recorded = json.loads((RECORDINGS / version / FACTS).read_text())
    shutil.copytree(RECORDINGS / version / store, tmp_path / store)
    facts = facts_of(tmp_path / store)
    if store == SNAPSHOT:  # It knows no more than the last answers.
        assert facts["answers"]
        recorded["answers"] = recorded["answers"][-len(facts["answers"]) :]
    assert list(differences(recorded, facts)) == []


def test_this_release_is_recorded() -> None:
    assert f"v{__version__}" in VERSIONS, "python -m tests.recorded.recorder"


def test_a_recording_has_every_command_and_every_setting_and_fills_every_field(
    tmp_path: Path,
) -> None:
    history = list(commands())
    assert {type(each.body) for each in history} == set(get_args(CommandBody))
    assert unused_fields(history) == set()
    machine = ReplicatedStateMachine()
    for index, command in enumerate(history):
        encoded = encode_command(command)
        assert decode_command(encoded) == command
        machine.apply(index, encoded)
    data = machine.state.data()
    assert unused_fields(data) == set()
    assert set(data.settings) >= set(SETTINGS)
    assert {p.role for p in data.principals} == set(Role)
    assert {p.liveness for p in data.principals} == set(Liveness)
    assert {task.state for task in data.tasks} == set(TaskState)
    assert data.authority.phase is list(RotationPhase)[-1]
    record(tmp_path / "new")


def test_differences_are_told_with_their_place() -> None:
    machine = ReplicatedStateMachine()
    for index, command in enumerate(commands()):
        machine.apply(index, encode_command(command))
    recorded = plain(machine.state.data())
    recorded["tasks"][0]["spec"]["priority"] = 1
    recorded["tasks"][1]["colour"] = "red"
    del recorded["tasks"][2]["spec"]["priority"]
    recorded["settings"]["user.z"] = "1"
    recorded["contents"].append(recorded["contents"][0])
    assert sorted(differences(recorded, machine.state.data())) == [
        ".contents has 5 items, not 6",
        ".settings[user.z] is None, not '1'",
        ".tasks[0].spec.priority is 3, not 1",
        ".tasks[1].colour is gone",
        ".tasks[2].spec.priority is new, and 3",
    ]
