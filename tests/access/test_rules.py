"""Rules are what the option of each method says, together with what only code can say."""

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.requirements import REQUIREMENTS
from ipfs_cluster_node.access.rules import RULES_BY_METHOD, SECONDS_MAX, rule_of
from ipfs_cluster_node.access.shares import SHARES
from ipfs_cluster_node.v1.options_pb2 import MethodRule
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
    assert read.judged == {CallerClass.CLIENT}
    assert read.signable


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("New", MethodRule(callers=[MethodRule.CLIENT], command="/new")),
        ("SubmitTask", MethodRule(callers=[MethodRule.CLIENT])),
        ("SubmitTask", MethodRule(callers=[MethodRule.CLIENT], command="/new", by_item=True)),
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
    names = {method.removeprefix("/ipfs_cluster_node.v1.") for method in RULES_BY_METHOD}
    assert {*REQUIREMENTS, *SHARES, *SECONDS_MAX} <= names


def test_callers_are_spelled_alike_in_the_proto() -> None:
    assert set(MethodRule.Caller.keys()) - {"CALLER_UNSPECIFIED"} == set(CallerClass.__members__)
