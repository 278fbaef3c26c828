"""Every method has its line in the table, and no line is left over."""

from ipfs_cluster_node.services.authorization import RULES_BY_METHOD
from ipfs_cluster_node.v1 import (
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
