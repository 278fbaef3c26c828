"""Which class of callers may call which method. What is not here is refused."""

from collections.abc import Mapping
from typing import Final

from ipfs_cluster_node.services.context import CallerClass

_JOINERS: Final = frozenset({CallerClass.JOINER})
_CLIENTS: Final = frozenset({CallerClass.CLIENT})
_NODES: Final = frozenset({CallerClass.NODE, CallerClass.MASTER})
_MASTERS: Final = frozenset({CallerClass.MASTER})
_MEMBERS: Final = _CLIENTS | _NODES

_V1: Final = "/ipfs_cluster_node.v1."

CALLERS_BY_METHOD: Final[Mapping[str, frozenset[CallerClass]]] = {
    f"{_V1}ContentService/AddContent": _MEMBERS,
    f"{_V1}ContentService/GetBlocks": _MEMBERS,
    f"{_V1}ContentService/GetContent": _MEMBERS,
    f"{_V1}ContentService/ListContent": _MEMBERS,
    f"{_V1}ContentService/PutBlocks": _MASTERS,
    f"{_V1}ContentService/StatContent": _MEMBERS,
    f"{_V1}EnrolmentService/Enrol": _JOINERS,
    f"{_V1}HealthService/GetHealth": _MEMBERS,
    f"{_V1}MembershipService/CreateJoinToken": _CLIENTS,
    f"{_V1}MembershipService/GetClusterStatus": _MEMBERS,
    f"{_V1}MembershipService/GetConfig": _MEMBERS,
    f"{_V1}MembershipService/Heartbeat": _NODES,
    f"{_V1}MembershipService/ListNodes": _MEMBERS,
    f"{_V1}MembershipService/ProposeConfig": _CLIENTS,
    f"{_V1}MembershipService/RedeemJoinToken": _MASTERS,
    f"{_V1}MembershipService/RegisterNode": _NODES,
    f"{_V1}MembershipService/RemoveNode": _CLIENTS,
    f"{_V1}MembershipService/ReplaceLog": _MASTERS,
    f"{_V1}MembershipService/TransferLeadership": _CLIENTS,
    f"{_V1}RaftService/Exchange": _MASTERS,
    f"{_V1}StateDeltaService/GetSnapshot": _MEMBERS,
    f"{_V1}TaskDispatchService/CancelTask": _CLIENTS,
    f"{_V1}TaskDispatchService/GetTask": _CLIENTS,
    f"{_V1}TaskDispatchService/ListTasks": _CLIENTS,
    f"{_V1}TaskDispatchService/SubmitTask": _CLIENTS,
    f"{_V1}TaskDispatchService/SubmitTasks": _CLIENTS,
    f"{_V1}TaskDispatchService/WatchTasks": _CLIENTS,
    f"{_V1}TaskDispatchService/WorkerSession": _NODES,
    "/grpc.health.v1.Health/Check": _MEMBERS | _JOINERS,
    "/grpc.health.v1.Health/List": _MEMBERS | _JOINERS,
    "/grpc.health.v1.Health/Watch": _MEMBERS | _JOINERS,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _MEMBERS,
}
