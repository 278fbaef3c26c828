"""The rows that a command reports as touched are exactly those that it changed."""

from collections import Counter
from itertools import islice

import pytest

from ipfs_cluster_node.codec.commands import decode_command, encode_command
from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core import certificates, config_history, state
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.state_data import StateData, differences, rows_of
from ipfs_cluster_node.core.tables import Notes, Table, TableName, Touched
from tests.recorded import history
from tests.support.random_commands import KINDS, RandomCommands

SEEDS = 14
COMMANDS = 500
EXPIRING = set(TableName) - {
    TableName.PRINCIPALS,
    TableName.SETTINGS,
    TableName.CONFIG_VERSIONS,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a short history reaches."""
    monkeypatch.setattr(certificates, "CERTIFICATES_MAX", 6)
    monkeypatch.setattr(config_history, "VERSIONS_MAX", 3)
    monkeypatch.setattr(config_history, "VERSIONS_BYTES_MAX", 250)
    monkeypatch.setattr(state, "TOKEN_KEEP_MS", 1000)
    monkeypatch.setattr(state, "EXPIRY_STEP_MS_MAX", 30 * 86_400_000)


def carried_out(cluster: ClusterState, command: c.LogCommand) -> Touched:
    """Carry out a command; returns what it touched, which is what it changed."""
    before = cluster.data()
    touched = cluster.apply(decode_command(encode_command(command))).touched
    assert touched == differences(before, cluster.data()), command
    return touched


@pytest.mark.usefixtures("small")
def test_every_kind_of_command_touches_what_it_changes_and_nothing_else() -> None:
    changes: Counter[tuple[type[object], TableName]] = Counter()
    for seed in range(SEEDS):
        cluster = ClusterState()
        for command in islice(RandomCommands(seed, cluster), COMMANDS):
            touched = carried_out(cluster, command)
            changes.update((type(command.body), name) for name in touched)
    assert {kind for kind, name in changes if name is not TableName.REQUESTS} == set(KINDS)
    assert {name for _, name in changes} == set(TableName)
    assert {name for kind, name in changes if kind is c.ExpireRecords} == EXPIRING


def test_the_recorded_commands_touch_what_they_change() -> None:
    cluster = ClusterState()
    for command in history.commands():
        carried_out(cluster, command)


def test_a_cluster_that_begins_with_what_it_had_touches_nothing_of_that() -> None:
    body = c.BootstrapCluster(cluster_id="id", cluster_name="", cluster_did=Did(""), principals=())
    touched = carried_out(ClusterState(), c.LogCommand(at_ms=1, body=body))
    assert touched == {TableName.CLUSTER: {"cluster_id"}}


@pytest.mark.usefixtures("small")
def test_a_state_from_a_snapshot_has_touched_nothing_and_goes_on_alike() -> None:
    cluster = ClusterState()
    for number, command in enumerate(islice(RandomCommands(99, cluster), COMMANDS)):
        again = ClusterState(decode_snapshot(encode_snapshot(cluster.data())))
        assert again.data() == cluster.data()
        touched = carried_out(cluster, command)
        if number % 10 == 0:
            assert carried_out(again, command) == touched


@pytest.mark.usefixtures("small")
def test_rows_can_be_followed_by_what_was_touched() -> None:
    """Like a watch: starting from an empty state, it reads only touched rows."""
    cluster = ClusterState()
    followed: dict[TableName, dict[object, object]] = {name: {} for name in TableName}
    for name in TableName:
        followed[name] |= rows_of(cluster.data(), name)
    for command in islice(RandomCommands(7, cluster), COMMANDS):
        touched = cluster.apply(command).touched
        for name, keys in touched.items():
            rows = rows_of(cluster.data(), name)
            for key in keys:
                if key in rows:
                    followed[name][key] = rows[key]
                else:
                    del followed[name][key]
    assert followed == {name: dict(rows_of(cluster.data(), name)) for name in TableName}


def test_differences_are_by_table_and_key() -> None:
    before = StateData(cluster_id="a", settings={"x": "1", "y": "1"})
    after = StateData(cluster_id="b", settings={"y": "2", "z": "1"})
    assert differences(before, before) == {}
    assert differences(before, after) == {
        TableName.CLUSTER: {"cluster_id"},
        TableName.SETTINGS: {"x", "y", "z"},
    }


def test_what_several_commands_touched_is_one_set_for_each_table() -> None:
    notes = Notes()
    table: Table[str, int] = Table(TableName.TASKS, notes)
    for key in ("a", "b", "b"):
        table.put(key, 1)
    settings: Table[str, int] = Table(TableName.SETTINGS, notes)
    settings.put("x", 1)
    table.drop("a")
    assert notes.take() == {TableName.TASKS: {"a", "b"}, TableName.SETTINGS: {"x"}}
    assert notes.take() == {}
