"""Files of a namespace: added, read, listed and removed by those who may there, unseen by others."""

import json
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster


@pytest.fixture
def teams(cluster: LocalCluster, cli: Any, tmp_path: Path) -> Any:
    """The command lines of a user of `team-a` and of one of `team-b`."""
    people = []
    for team in ("team-a", "team-b"):
        made = cli("token", "create", "--role", "client", "--grant", "user", "--namespace", team)
        done = cli(
            *("join", made.stdout.strip(), "--enrolment", f"127.0.0.1:{cluster.enrolment_port}"),
            *("--home", str(tmp_path / team), "--profile-name", team),
        )
        assert done.returncode == 0, done.stderr
        people.append(lambda *words, team=team: cli("--profile", team, *words))
    return people


def namespaces(person: Any, cid: str, *options: str) -> list[str] | None:
    """Those that somebody sees of a file; None if it is not listed."""
    found = json.loads(person("content", "ls", *options, "--limit", "1000", "--json").stdout)
    return next((each["namespaces"] for each in found if each["cid"] == cid), None)


def test_equal_bytes_are_in_each_namespace_and_removed_from_one(
    cli: Any, teams: Any, tmp_path: Path
) -> None:
    anna, ben = teams
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n2\n")
    # Where one may add: the denial says how.
    denied = anna("content", "add", str(path))
    assert denied.returncode == 4
    assert "you may add files in team-a only, and this call is in default; " in denied.stderr
    assert "add --namespace team-a, or ask an operator" in denied.stderr
    cid = anna("content", "add", str(path), "--namespace", "team-a").stdout.strip()
    assert ben("content", "get", cid, "-o", str(tmp_path / "no")).returncode == 4
    assert ben("content", "stat", cid).returncode == 4
    assert ben("content", "rm", cid, "--namespace", "team-a").returncode == 4
    assert namespaces(ben, cid) is None
    explained = ben("auth", "explain", "--do", f"content rm {cid}", "-v")
    assert explained.returncode == 4
    assert "team-a" not in explained.stdout
    missing = ben("content", "rm", cid, "--namespace", "team-b")
    assert "CONTENT_NOT_FOUND" in missing.stderr
    assert "team-a" not in missing.stderr

    assert ben("content", "add", str(path), "--namespace", "team-b").stdout.strip() == cid
    for person, team in ((anna, "team-a"), (ben, "team-b")):
        assert namespaces(person, cid) == [team]
        got = tmp_path / f"{team}-got"
        assert person("content", "get", cid, "-o", str(got)).returncode == 0
        rows = json.loads(person("state", "content", "--json").stdout)
        assert {tuple(each["namespaces"]) for each in rows if each["cid"] == cid} == {(team,)}
    assert namespaces(cli, cid, "--namespace", "team-*") == ["team-a", "team-b"]
    assert namespaces(cli, cid, "--namespace", "team-c") is None

    # For one only, and nobody is told of the other.
    removed = anna("content", "rm", cid)
    assert removed.returncode == 0, removed.stderr
    assert "team-b" not in removed.stdout
    assert namespaces(anna, cid) is None
    assert anna("content", "get", cid, "-o", str(tmp_path / "no")).returncode == 4
    assert namespaces(ben, cid) == ["team-b"]
    assert ben("content", "rm", cid).returncode == 0
    assert namespaces(cli, cid) is None


def test_sql_adds_its_files_in_its_namespace(teams: Any, tmp_path: Path) -> None:
    anna, ben = teams
    path = tmp_path / "s.csv"
    path.write_text("a\n3\n")
    query = ("SELECT sum(a) AS total FROM t", f"t={path}")
    done = anna("sql", *query, "--namespace", "team-a", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(anna("content", "ls", "--json").stdout)
    [added] = [each for each in found if each["name"] == "s.csv"]
    assert added["namespaces"] == ["team-a"]
    assert anna("sql", *query).returncode == 4
    assert namespaces(ben, added["cid"]) is None


def test_a_needed_file_names_its_task_only_to_those_who_may_read_it(
    cli: Any, teams: Any, tmp_path: Path
) -> None:
    anna, _ = teams
    path = tmp_path / "n.csv"
    path.write_text("a\n7\n")
    cid = cli("content", "add", str(path), "--namespace", "team-a").stdout.strip()
    endless = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"
    submitted = cli(
        *("task", "submit", "data_processing", "--sql", endless, "--namespace", "team-z"),
        *("--input", f"t={cid}", "--json"),
    )
    assert submitted.returncode == 0, submitted.stderr
    task_id = json.loads(submitted.stdout)["task_id"]
    refused = anna("content", "rm", cid)
    assert "a task of others, which has not ended, needs" in refused.stderr
    assert task_id not in refused.stderr
    assert task_id in cli("content", "rm", cid).stderr
    mine = json.loads(anna("content", "stat", cid, "--json").stdout)
    assert mine["needed_by_others"]
    assert mine["needed_by"] == ""
    assert cli("task", "cancel", task_id).returncode == 0
    assert anna("content", "rm", cid).returncode == 0
