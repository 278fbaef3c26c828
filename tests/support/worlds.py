"""A replicated state of a few members, and what a test does to it."""

from hashlib import sha256

from ipfs_cluster_node.codec.commands import decode_command, encode_command
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId, TaskId, did_from_public_key, node_id_from_public_key
from ipfs_cluster_node.core.model import (
    AttemptId,
    AttemptOutcome,
    Principal,
    Role,
    TaskFailure,
    TaskResult,
    TaskSpec,
)
from ipfs_cluster_node.core.state import ClusterState

DAY_MS = 86_400_000
KEYS = [bytes([n]) * 32 for n in range(4)]
MASTER, WORKER, OTHER, JOINER = map(node_id_from_public_key, KEYS)
CLIENT = did_from_public_key(b"c" * 32)
T = TaskId("t")


class World:
    """A state with a master and two workers that are alive."""

    def __init__(self) -> None:
        self.state = ClusterState()
        self.now_ms = 1_000
        principals = tuple(
            Principal(
                did=did_from_public_key(key),
                name=f"n{n}",
                role=Role.MASTER if n == 0 else Role.WORKER,
                incarnation=1 if n == 0 else 0,
                enrolled_at_ms=1,
                liveness_at_ms=1,
            )
            for n, key in enumerate(KEYS[:3])
        )
        self.do(
            c.BootstrapCluster(
                cluster_id="id",
                cluster_name="name",
                cluster_did=did_from_public_key(KEYS[3]),
                principals=principals,
            )
        )
        for node in (WORKER, OTHER):
            self.do(
                c.RegisterNode(
                    node_id=node, endpoints=(), task_types=("echo",), slot_count=2, version="1"
                )
            )

    def do(self, body: c.CommandBody, request_id: str = "", caller: str = CLIENT):  # type: ignore[no-untyped-def]
        command = c.LogCommand(at_ms=self.now_ms, body=body, caller=caller, request_id=request_id)
        # Through the log's bytes, as every command goes.
        return self.state.apply(decode_command(encode_command(command))).outcome

    def submit(self, *task_ids: str, request_id: str = "", spec: TaskSpec | None = None):  # type: ignore[no-untyped-def]
        spec = spec or TaskSpec(task_type="echo", payload=b"x")
        return self.do(
            c.SubmitTasks(
                task_ids=tuple(map(TaskId, task_ids)),
                specs=(spec,) * len(task_ids),
                fingerprint=sha256(spec.payload).digest(),
            ),
            request_id,
        )

    def assign(self, task_id: str = "t", node: NodeId = WORKER) -> None:
        self.do(c.AssignTasks(assignments=((TaskId(task_id), node),)))

    def finish(self, attempt: int, node: NodeId = WORKER, *, failure: bool = False) -> None:
        outcome = AttemptOutcome(
            id=AttemptId(T, attempt),
            result=None if failure else TaskResult(data=b"r"),
            failure=TaskFailure(Reason.HANDLER_FAILED, "no") if failure else None,
            retryable=failure,
        )
        self.do(c.FinishAttempts(node_id=node, outcomes=(outcome,)))

    def task(self, task_id: str = "t"):  # type: ignore[no-untyped-def]
        task = self.state.tasks.get(TaskId(task_id))
        assert task is not None
        return task


def config(key: str, value: str, if_value: str | None = None) -> c.ProposeConfig:
    if_values = {} if if_value is None else {key: if_value}
    return c.ProposeConfig(values={key: value}, if_values=if_values)


def add_file(world: World, cid: str, *, goes_with: str = "", namespace: str = "") -> object:
    """Name a file of 7 bytes that the master holds; returns the answer."""
    return world.do(
        c.AddContent(
            cid=cid,
            size_bytes=7,
            holders=(MASTER,),
            name="",
            goes_with=TaskId(goes_with),
            namespace=namespace,
        )
    )
