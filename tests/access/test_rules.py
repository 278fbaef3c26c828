"""Rules combine the option of each method with what only code can express."""

from collections.abc import Callable
from typing import Any, Final

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.requirements import REQUIREMENTS
from ipfs_cluster_node.access.rules import RULES_BY_METHOD, SECONDS_MAX, Rule, rule_of
from ipfs_cluster_node.access.shares import SHARES
from ipfs_cluster_node.codec.enums import CALLER_CLASS
from ipfs_cluster_node.v1.options_pb2 import CALLER_CLASS_CLIENT, MethodRule
from ipfs_cluster_node.v1.options_pb2 import rule as option


def method(name: str, said: MethodRule | None) -> Any:
    """The descriptor of a method of TaskDispatchService, with this option."""
    file = descriptor_pb2.FileDescriptorProto(
        name="x.proto", package="x", message_type=[descriptor_pb2.DescriptorProto(name="M")]
    )
    described = file.service.add(name="TaskDispatchService").method.add(
        name=name, input_type=".x.M", output_type=".x.M"
    )
    if said is not None:
        described.options.Extensions[option].CopyFrom(said)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())  # type: ignore[no-untyped-call]
    service = pool.FindServiceByName("x.TaskDispatchService")  # type: ignore[no-untyped-call]
    return service.FindMethodByName(name)


def test_a_method_without_the_option_has_no_rule() -> None:
    """So a server that has it does not start: `test_a_method_without_a_rule_is_not_served`."""
    assert rule_of(method("SubmitTask", None)) is None


def test_what_the_option_does_not_say_is_not_allowed() -> None:
    read = rule_of(method("New", MethodRule()))
    assert read is not None
    assert read.callers == frozenset()
    assert read.delegated == {CallerClass.CLIENT}
    assert read.signable


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("New", MethodRule(callers=[CALLER_CLASS_CLIENT], command="/new")),
        ("SubmitTask", MethodRule(callers=[CALLER_CLASS_CLIENT])),
        ("SubmitTask", MethodRule(callers=[CALLER_CLASS_CLIENT], command="/new", by_item=True)),
        ("New", MethodRule(command="/new", by_item=True, changes=True)),
        ("New", MethodRule(command="/new", by_item=True, decides_itself=True)),
    ],
    ids=["nothing judges it", "no command", "judged by item", "changes by item", "judged twice"],
)
def test_an_option_that_does_not_go_with_the_requirements_is_an_error(
    name: str, said: MethodRule
) -> None:
    with pytest.raises(ValueError):
        rule_of(method(name, said))


def test_nothing_is_left_over_for_a_method_that_is_gone() -> None:
    names = {method.rpartition(".")[2] for method in RULES_BY_METHOD}
    assert {*REQUIREMENTS, *SHARES, *SECONDS_MAX} <= names


def test_callers_are_spelled_alike_in_the_proto() -> None:
    assert CALLER_CLASS.numbers.keys() == set(CallerClass)


def called(holds: Callable[[Rule], bool]) -> set[str]:
    """The names of the methods for whose rule this holds."""
    return {method.rsplit("/", 1)[1] for method, rule in RULES_BY_METHOD.items() if holds(rule)}


ANY_MEMBER: Final = {
    *("AddContent", "GetBlocks", "GetCaller", "GetClusterStatus", "GetConfig", "GetContent"),
    *("GetHealth", "ListContent", "ListNodes", "RenewCertificate", "StatContent"),
    *("Check", "List", "Watch", "ServerReflectionInfo"),
}
OF_NODES: Final = {"Heartbeat", "LeaveCluster", "RegisterNode", "WorkerSession"}
OF_MASTERS: Final = {"Exchange", "PutBlocks", "RedeemJoinToken", "RenewForMember", "ReplaceLog"}
FOR_CLIENTS: Final = {"CreateJoinToken", "GetSnapshot", "PutDelegation"}
"""For clients, and for masters that forward a call."""
OF_JOINERS: Final = {"Enrol", "RenewExpiredCertificate"}
UNDELEGATED: Final = {
    *("ExplainAccess", "GetCaller", "ListDelegations", "PutDelegation", "RevokeDelegation"),
    *("GetClusterStatus", "RenewCertificate"),
    *("Check", "List", "Watch", "ServerReflectionInfo"),
}
"""What a client may do without a delegation: it concerns the caller alone, or reveals nothing."""
READING: Final = ("Check", "Explain", "Get", "List", "Plan", "ServerReflection", "Stat", "Watch")
ROUTINE: Final = {"Exchange", "Heartbeat", "PutBlocks", "WorkerSession"}


def test_each_class_may_call_these_methods() -> None:
    """Stated again here, since the test of every method over sockets relies on the options."""
    assert called(lambda rule: CallerClass.NODE in rule.callers) == ANY_MEMBER | OF_NODES
    masters = ANY_MEMBER | OF_NODES | OF_MASTERS | FOR_CLIENTS
    assert called(lambda rule: CallerClass.MASTER in rule.callers) == masters
    assert called(lambda rule: CallerClass.JOINER in rule.callers) == OF_JOINERS | {"Check"}
    others = OF_NODES | OF_MASTERS | OF_JOINERS
    assert called(lambda rule: CallerClass.CLIENT not in rule.callers) == others


def test_a_client_needs_a_delegation_and_a_master_only_for_join_tokens() -> None:
    free = called(lambda rule: CallerClass.CLIENT in rule.callers and rule.command is None)
    assert free == UNDELEGATED
    assert called(lambda rule: CallerClass.CLIENT not in rule.delegated) == set()
    assert called(lambda rule: CallerClass.MASTER in rule.delegated) == {"CreateJoinToken"}
    assert called(lambda rule: CallerClass.NODE in rule.delegated) == set()


def test_whatever_is_no_reading_goes_into_the_audit_log() -> None:
    names = called(lambda _rule: True)
    changing = {name for name in names if not name.startswith(READING)} - ROUTINE
    assert called(lambda rule: rule.changes) == changing


def test_only_a_stream_of_requests_is_not_signed() -> None:
    assert called(lambda rule: not rule.signable) == {"AddContent"}


def test_only_health_is_told_without_a_log() -> None:
    assert called(lambda rule: rule.without_log) == {"GetHealth"}


def test_bounds_reach_the_rules() -> None:
    assert called(lambda rule: rule.share is not None) == {
        name.rsplit("/", 1)[1] for name in SHARES
    }
    assert called(lambda rule: rule.seconds_max is not None) == {"CreateBackup", "GetSnapshot"}
