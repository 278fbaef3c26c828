"""Every method has its rule, and the docs say the same."""

import re
from pathlib import Path

from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.rules import RULES_BY_METHOD, Rule

PROTOS = Path("protos")


def test_every_method_of_the_protos_has_a_rule() -> None:
    methods = set()
    for file in PROTOS.rglob("*.proto"):
        text = file.read_text()
        [package] = re.findall(r"^package ([\w.]+);", text, re.MULTILINE)
        for service, body in re.findall(r"^service (\w+) {(.*?)^}", text, re.DOTALL | re.MULTILINE):
            for name in re.findall(r"^  rpc (\w+)", body, re.MULTILINE):
                methods.add(f"/{package}.{service}/{name}")
    assert len(methods) > 40
    ours = {method for method in RULES_BY_METHOD if method.startswith("/ipfs_cluster_node.")}
    assert ours == methods
    others = set(RULES_BY_METHOD) - ours
    assert all(method.startswith(("/grpc.health.v1.", "/grpc.reflection.")) for method in others)


def test_who_may_call_is_not_said_again_beside_the_option() -> None:
    """Comments had drifted from the rules."""
    assert [file for file in PROTOS.rglob("*.proto") if "Who may call:" in file.read_text()] == []


def callers_of(rule: Rule) -> str:
    """As the docs say it: of clients everybody knows that they are judged by delegations."""
    judged = (rule.callers & rule.delegated) - {CallerClass.CLIENT}
    classes = ", ".join(sorted(rule.callers - judged))
    return "; ".join([classes, *(f"{each} with a delegation" for each in sorted(judged))])


def command_of(rule: Rule) -> str:
    if rule.decides_itself:
        return "the method decides; see [above](#how-a-call-is-judged)"
    return rule.command or "none: the class is enough"


def test_the_table_in_the_docs_is_that_of_the_code() -> None:
    lines = Path("docs/authorization.md").read_text("utf-8").splitlines()
    cells = [[cell.strip(" `") for cell in line.split("|")[1:4]] for line in lines]
    rows = {row[0]: row[1:] for row in cells if len(row) == 3 and "Service" in row[0]}
    rows |= {row[0]: row[1:] for row in cells if len(row) == 3 and row[0].startswith("grpc.")}
    assert rows == {
        method.removeprefix("/").removeprefix("ipfs_cluster_node.").removeprefix("v1."): [
            callers_of(rule),
            command_of(rule),
        ]
        for method, rule in RULES_BY_METHOD.items()
    }


def test_who_may_change_anything_is_in_the_audit_log() -> None:
    """A method that writes to the log says so in its rule."""
    reading = {"Get", "List", "Watch", "Stat", "Check", "Explain", "Plan", "Server"}
    between_nodes = {"Exchange", "Heartbeat", "PutBlocks", "WorkerSession"}
    for method, rule in RULES_BY_METHOD.items():
        name = method.rsplit("/", 1)[1]
        reads = any(name.startswith(verb) for verb in reading) or name in between_nodes
        assert rule.changes != reads, method
