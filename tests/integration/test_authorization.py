"""Every method has its line in the table, and no line is left over."""

from pathlib import Path

from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.rules import RULES_BY_METHOD, Rule
from ipfs_cluster_node.v1 import (
    audit_pb2,
    authorization_pb2,
    certificate_pb2,
    content_pb2,
    enrolment_pb2,
    health_pb2,
    membership_pb2,
    raft_pb2,
    state_delta_pb2,
    task_dispatch_pb2,
)

FILES = (
    audit_pb2,
    authorization_pb2,
    certificate_pb2,
    content_pb2,
    enrolment_pb2,
    health_pb2,
    membership_pb2,
    raft_pb2,
    state_delta_pb2,
    task_dispatch_pb2,
)


def test_the_table_has_exactly_the_methods_of_the_protos() -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    ours = {method for method in RULES_BY_METHOD if method.startswith("/ipfs_cluster_node.")}
    assert ours == methods
    others = set(RULES_BY_METHOD) - ours
    assert all(method.startswith(("/grpc.health.v1.", "/grpc.reflection.")) for method in others)


def callers_of(rule: Rule) -> str:
    """As the docs say it: of clients everybody knows that they are judged by delegations."""
    judged = (rule.callers & rule.judged) - {CallerClass.CLIENT}
    classes = ", ".join(sorted(rule.callers - judged))
    return "; ".join([classes, *(f"{each} with a delegation" for each in sorted(judged))])


def test_the_table_in_the_docs_is_that_of_the_code() -> None:
    lines = Path("docs/authorization.md").read_text("utf-8").splitlines()
    cells = [[cell.strip(" `") for cell in line.split("|")[1:4]] for line in lines]
    rows = {row[0]: row[1:] for row in cells if len(row) == 3 and "Service" in row[0]}
    rows |= {row[0]: row[1:] for row in cells if len(row) == 3 and row[0].startswith("grpc.")}
    assert rows == {
        method.removeprefix("/ipfs_cluster_node.v1.").lstrip("/"): [
            callers_of(rule),
            rule.command or "",
        ]
        for method, rule in RULES_BY_METHOD.items()
    }


def test_who_may_change_anything_is_in_the_audit_log() -> None:
    """A method that writes to the log says so in its rule."""
    reading = {"Get", "List", "Watch", "Stat", "Check", "Explain", "Server"}
    between_nodes = {"Exchange", "Heartbeat", "PutBlocks", "WorkerSession"}
    for method, rule in RULES_BY_METHOD.items():
        name = method.rsplit("/", 1)[1]
        reads = any(name.startswith(verb) for verb in reading) or name in between_nodes
        assert rule.changes != reads, method
