"""A colleague's rights on one namespace, by one command and one `join`; and none, to be delegated."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster


@pytest.fixture
def joined(cluster: LocalCluster, cli: Any, tmp_path: Path) -> Any:
    """Makes a token with these options, joins with it, and returns the colleague's command line."""
    enrolment = f"127.0.0.1:{cluster.enrolment_port}"

    def join(name: str, *options: str) -> Any:
        made = cli("token", "create", "--role", "client", *options)
        assert made.returncode == 0, made.stderr
        done = cli(
            *("join", made.stdout.strip(), "--enrolment", enrolment),
            *("--home", str(tmp_path / name), "--profile-name", name),
        )
        assert done.returncode == 0, done.stderr
        return lambda *words: cli("--profile", name, *words)

    return join


def test_a_colleague_reads_one_namespace_by_one_command(cli: Any, joined: Any) -> None:
    inside, outside = (
        json.loads(cli("task", "submit", "echo", "--namespace", each, "--json").stdout)["task_id"]
        for each in ("team-a/nightly", "team-b/nightly")
    )
    reader = joined("anna", "--grant", "reader", "--namespace", "team-a/*")
    listed = [each["task_id"] for each in json.loads(reader("task", "list", "--json").stdout)]
    assert inside in listed
    assert outside not in listed
    assert reader("task", "get", inside).returncode == 0
    assert reader("task", "get", outside).returncode == 4
    # What says why a task waits, and nothing else of the cluster.
    nodes = json.loads(reader("node", "list", "--json").stdout)
    assert reader("node", "health", nodes[0]["node_id"]).returncode == 0
    assert reader("config", "get").returncode == 4
    for denied in (
        ("task", "submit", "echo", "--namespace", "team-a/nightly"),
        ("task", "cancel", inside),
        ("token", "create", "--role", "client"),
    ):
        assert reader(*denied).returncode == 4, denied
    # In words; what UCAN says of it where it is asked for, and in JSON.
    denied = reader("task", "cancel", inside)
    did = json.loads(reader("auth", "whoami", "--json").stdout)["did"]
    assert denied.stderr.strip() == (
        "error: you may read tasks in team-a/*, but not cancel them; ask an operator: "
        f"ipfs-cluster-node token delegate {did} /task/cancel --where 'namespace=team-a/*' "
        "[NOT_DELEGATED]"
    )
    assert "InvalidCommand" in reader("task", "cancel", inside, "-v").stderr
    told = json.loads(reader("task", "cancel", inside, "--json").stderr)["error"]
    assert told["metadata"]["ucan_error"] == "InvalidCommand"
    elsewhere = reader("task", "get", outside).stderr
    assert "you may read tasks in team-a/* only; ask an operator: " in elsewhere
    assert "team-b" not in elsewhere
    # What it names does what it says.
    asked = shlex.split(denied.stderr.split("ipfs-cluster-node ")[1].rpartition(" [")[0])
    assert cli(*asked).returncode == 0
    assert reader("task", "cancel", inside).returncode != 4
    # The next certificate brings the same.
    assert reader("cert", "renew").returncode == 0
    held = json.loads(reader("auth", "whoami", "--json").stdout)["delegations"]
    policies = {each["policy_json"] for each in held if each["command"] == "/task/read"}
    assert policies == {'[["like", ".namespace", "team-a/*"]]'}


def test_a_colleague_gets_the_results_of_the_namespace_and_no_other_file(
    cli: Any, joined: Any, tmp_path: Path
) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a\n1\n2\n")
    added = json.loads(cli("content", "add", str(table), "--json").stdout)["cid"]

    def result_of(namespace: str) -> str:
        query = ("--sql", f"SELECT a, '{namespace}' AS n FROM t")
        done = cli(
            *("task", "submit", "data_processing", *query, "--input", f"t={added}"),
            *("--namespace", namespace, "--wait", "--request-id", f"made-in-{namespace}"),
        )
        assert done.returncode == 0, done.stderr
        listed = json.loads(cli("task", "list", "--json").stdout)
        made = next(each for each in listed if each["spec"]["namespace"] == namespace)
        return str(made["status"]["result"]["cid"])

    inside, outside = map(result_of, ("team-r", "team-s"))
    reader = joined("carl", "--grant", "reader", "--namespace", "team-r")
    listed = [each["cid"] for each in json.loads(reader("content", "ls", "--json").stdout)]
    assert listed == [inside]
    got = tmp_path / "got"
    assert reader("content", "get", inside, "-o", str(got)).returncode == 0
    assert got.read_bytes()[:4] == b"PAR1"
    for cid in (added, outside):
        denied = reader("content", "get", cid, "-o", str(tmp_path / "no"))
        assert denied.returncode == 4
        assert "you may read files in team-r only" in denied.stderr


def test_a_client_without_rights_gets_them_later(cli: Any, joined: Any) -> None:
    nobody = joined("ben", "--grant", "none")
    known = json.loads(nobody("auth", "whoami", "--json").stdout)
    assert known["delegations"] == []
    assert nobody("task", "list").returncode == 4
    assert cli("token", "delegate", known["did"], "/task/read").returncode == 0
    assert nobody("task", "list").returncode == 0
    assert nobody("cert", "renew").returncode == 0


def test_a_limit_that_a_grant_does_not_have_is_refused(cli: Any) -> None:
    for grant, namespace in (("operator", "team-a"), ("none", "team-a"), ("reader", "team-*")):
        done = cli(
            *("token", "create", "--role", "client", "--grant", grant, "--namespace", namespace)
        )
        assert done.returncode == 2, done.stderr
        assert "namespace" in done.stderr
    listed = cli("token", "list", "--join")
    for refused in ("operator in", "none in", "team-*"):
        assert refused not in listed.stdout


def test_a_client_is_limited_to_a_namespace_by_one_command(cli: Any, joined: Any) -> None:
    dora = joined("dora", "--grant", "user")
    assert "cancel, read and submit tasks\n" in dora("auth", "whoami").stdout
    did = json.loads(dora("auth", "whoami", "--json").stdout)["did"]
    assert dora("task", "submit", "echo").returncode == 0
    for wrong in (
        (did, "--yes"),
        (did, "--namespace", "team-*", "--yes"),
        (did, "--command", "/task/cancel", "--namespace", "team-a", "--yes"),
        (did, "--command", "/admin", "--namespace", "team-a", "--yes"),
    ):
        assert cli("auth", "narrow", *wrong).returncode == 2, wrong
    narrowed = cli("auth", "narrow", did, "--namespace", "team-n", "--yes", "--json")
    assert narrowed.returncode == 0, narrowed.stderr
    made = json.loads(narrowed.stdout)["narrowed"]
    assert {each["command"] for each in made} == {"/task", "/content", "/state/read"}

    def may() -> None:
        denied = dora("task", "submit", "echo")
        assert denied.returncode == 4
        assert "add --namespace team-n" in denied.stderr
        assert dora("task", "submit", "echo", "--namespace", "team-n").returncode == 0
        # What was not narrowed is renewed as before.
        assert dora("config", "get").returncode == 0
        assert "cancel, read and submit tasks in team-n\n" in dora("auth", "whoami").stdout

    may()
    assert dora("cert", "renew").returncode == 0
    may()
    # Its own tokens are what is left: there is nothing of the grant to be narrowed again.
    again = cli("auth", "narrow", did, "--namespace", "team-m", "--yes")
    assert "has nothing of its grant that could be narrowed" in again.stderr


def test_a_list_that_rights_leave_empty_says_so(joined: Any) -> None:
    erik = joined("erik", "--grant", "reader", "--namespace", "team-empty/*")
    for words, thing in ((("task", "list"), "tasks"), (("content", "ls"), "files")):
        done = erik(*words)
        assert done.returncode == 0
        assert f"you see only {thing} that you may read: in team-empty/*" in done.stderr
        assert erik(*words, "--json").stderr == ""
    assert "you see only" not in erik("node", "list").stderr


def test_a_removal_is_denied_by_the_right_that_it_needs(cli: Any, joined: Any) -> None:
    frida = joined("frida", "--grant", "reader", "--namespace", "team-a/*")
    name = json.loads(cli("node", "list", "--json").stdout)[0]["name"]
    denied = frida("node", "remove", name, "--yes")
    assert denied.returncode == 4
    assert "you may list nodes, but not remove them; ask an operator: " in denied.stderr
    assert "/cluster/member/remove" in denied.stderr
