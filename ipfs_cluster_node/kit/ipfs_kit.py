"""The kit's object: one node and a client, by IPFS Kit's names."""

import logging
from collections.abc import Callable, Mapping
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.kit.given import (
    given_count,
    given_priority,
    given_role,
    given_seconds,
    given_setting,
    given_text,
    given_texts,
    switch_in,
    text_in,
)
from ipfs_cluster_node.kit.results import (
    CALL_TIMEOUT,
    CLUSTER_NAME_DEFAULT,
    NOT_SUPPORTED,
    ErrorType,
    KitError,
    Result,
    failed,
    not_supported,
    started,
)
from ipfs_cluster_node.kit.shown import STATUS, given_status, node_result, task_result
from ipfs_cluster_node.kit.views import ClusterManager

if TYPE_CHECKING:
    from ipfs_cluster_node.client.sync import SyncClient
    from ipfs_cluster_node.config.profiles import Profile
    from ipfs_cluster_node.kit.host import KitNode

TASKS_LISTED_MAX: Final = 1000
"""Tasks in a status: the newest."""
FAILED_TASKS_MAX: Final = 100_000
"""Tasks looked through for those that failed, or timed out."""
log = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., Result])


def _operation(method: Method) -> Method:
    """Make a method return its failure instead of raising it."""
    name = method.__name__

    @wraps(method)
    def call(self: "ipfs_kit", *args: Any, **kwargs: Any) -> Result:
        result = started(name)
        try:
            return result | method(self, *args, **kwargs) | {"success": True}
        except KitError as error:
            return failed(result, error)
        except ClusterError as error:
            return failed(result, KitError.of(error, self._cluster_name))
        except OSError as error:
            return failed(result, KitError(ErrorType.FILE, str(error)))
        except ValueError as error:  # Such as a number of more digits than Python writes.
            return failed(result, KitError(ErrorType.VALIDATION, str(error)))

    return call  # type: ignore[return-value]


class ipfs_kit:  # noqa: N801  # As the document that this follows spells it.
    """A node of a cluster, and calls to the cluster; close it, or use it as a context manager.

    Every method returns a dict with `success`, `operation`, `timestamp` and `correlation_id`; one
    that failed has `error`, `error_type` and `recoverable`. `success` is true only once the cluster
    has answered.
    """

    def __init__(
        self,
        resources: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        role: str | None = None,
        enable_cluster_management: bool | None = None,
        timeout: float = CALL_TIMEOUT.total_seconds(),
    ) -> None:
        """Start the node that `metadata` describes, and wait until the cluster counts it as alive.

        Args:
            resources: Not used: what a node has is measured by itself.
            metadata: See docs/kit.md; other keys are kept in `metadata` and mean nothing.
            role: As `metadata["role"]`.
            enable_cluster_management: As in `metadata`; without it there is no node.
            timeout: Seconds after which a call fails if the cluster has not answered.

        Raises:
            KitError: What is wrong with the metadata, or why the node did not start or join.
        """
        from ipfs_cluster_node.kit.wanted import hint_of, misspelt

        del resources
        if not isinstance(metadata, Mapping | None):
            raise KitError(ErrorType.VALIDATION, "metadata must be a dictionary")
        self.metadata: dict[str, Any] = dict(metadata or {})
        if role is not None:
            self.metadata["role"] = role
        if enable_cluster_management is not None:
            self.metadata["enable_cluster_management"] = enable_cluster_management
        self.role = text_in(self.metadata, "role", Role.LEECHER)
        self._cluster_name = text_in(self.metadata, "cluster_name", CLUSTER_NAME_DEFAULT)
        self.cluster_manager: ClusterManager | None = None
        self._timeout = given_seconds(timeout, "timeout")
        self._node: KitNode | None = None
        self._client: SyncClient | None = None
        self._profile: Profile | None = None
        self._no_client = KitError(
            ErrorType.CONFIGURATION,
            "Cluster management is not enabled; set enable_cluster_management in the metadata",
        )
        self._hint = hint_of(misspelt(self.metadata))
        if self._hint:
            log.warning("in the metadata %s", self._hint)
            self._no_client = self._no_client.with_hint(self._hint)
        if switch_in(self.metadata, "enable_cluster_management"):
            try:
                self._start()
            except ClusterError as error:
                self.close()
                raise self._hinted(KitError.of(error, self._cluster_name)) from error
            except KitError as error:
                self.close()
                raise self._hinted(error) from error.__cause__
            except OSError as error:
                self.close()
                raise KitError(ErrorType.FILE, f"the node can't be made here: {error}") from error
            except BaseException:
                self.close()
                raise

    def _hinted(self, error: KitError) -> KitError:
        """The error, with the keys of the metadata that look misspelt."""
        return error.with_hint(f"in the metadata {self._hint}") if self._hint else error

    def _start(self) -> None:
        from ipfs_cluster_node.client.sync import SyncClient
        from ipfs_cluster_node.kit.host import READY_SECONDS_MAX, KitNode
        from ipfs_cluster_node.kit.wanted import node_wanted

        self._node = node = KitNode(node_wanted(self.metadata, self.role))
        node.make()
        node.start()
        self.cluster_manager = ClusterManager(self)
        try:
            self._profile = node.profile()
        except ClusterError as error:  # A node alone, of a cluster that others use.
            self._no_client = KitError.of(error, self._cluster_name)
            return
        self._client = SyncClient.from_settings(self._profile)
        node.until_member(
            self._client, seconds=max(READY_SECONDS_MAX, self._timeout.total_seconds())
        )
        node.check_masters(self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_node", None) is not None or getattr(self, "_client", None) is not None:
            self.close()

    def close(self) -> None:
        """End the client and the node's process; safe to repeat."""
        client, self._client = self._client, None
        node, self._node = self._node, None
        self._no_client = KitError(ErrorType.CONFIGURATION, "this kit is closed; make another one")
        if client is not None:
            client.close()
        if node is not None:
            node.stop()

    # The node.

    @property
    def node_id(self) -> str:
        """The PeerID of its node; empty without one."""
        return "" if self._node is None else self._node.node_id

    @property
    def node_pid(self) -> int | None:
        """The node's process; None if it does not run."""
        return None if self._node is None else self._node.pid

    @property
    def node_address(self) -> str:
        """The multiaddr of its node, with its PeerID: what others name in `master_addresses`."""
        from ipfs_cluster_node.kit.addresses import multiaddr_of

        return "" if self._node is None else multiaddr_of(self._node.address, self._node.node_id)

    @property
    def client(self) -> "SyncClient":
        """The Python client, for what has no name in IPFS Kit; raises KitError without one."""
        return self._opened

    # The seed's methods.

    @_operation
    def get_cluster_status(self) -> Result:
        """The cluster, its nodes, and its newest tasks."""
        client = self._opened
        status = client.get_cluster_status(timeout=self._timeout)
        nodes = client.list_nodes(timeout=self._timeout)
        tasks = client.list_tasks(limit=TASKS_LISTED_MAX, timeout=self._timeout)
        return {
            "cluster_id": status.cluster_name,
            "cluster_uid": status.cluster_id,
            "node_id": self.node_id,
            "role": self.role,
            "is_master": self.role == Role.MASTER,
            "leader": status.leader_node_id,
            "term": status.term,
            "nodes": [node_result(each) for each in nodes],
            "tasks": [task_result(each) for each in tasks],
            "task_statistics": {
                STATUS[state]: count for state, count in status.task_counts.items()
            },
        }

    @_operation
    def submit_cluster_task(
        self,
        task_type: str,
        payload: Mapping[str, Any],
        priority: int = 1,
        timeout: float | None = None,
    ) -> Result:
        """Submit a task; returns its `task_id` once the cluster has committed it.

        Args:
            task_type: Names the handler.
            payload: Sent as JSON; `input_cid` names a file of the cluster, its input `input`.
            priority: 0 (last) to 9 (first).
            timeout: Seconds from now until the task fails if it has not ended; default 7 days.
        """
        if not task_type:
            raise KitError(ErrorType.VALIDATION, "Task type must be specified")
        if not isinstance(payload, Mapping):
            raise KitError(ErrorType.VALIDATION, "Payload must be a dictionary")
        task_id = self._opened.submit_task(
            task_type,
            dict(payload),
            priority=given_priority(priority),
            task_timeout=None if timeout is None else given_seconds(timeout, "timeout"),
            timeout=self._timeout,
        )
        return {"task_id": str(task_id), "task_type": task_type}

    @_operation
    def get_task_status(self, task_id: str) -> Result:
        """A task's `status`, and its `result` once it has one; an unknown task is a failure."""
        task = self._opened.get_task(given_text(task_id, "task_id"), timeout=self._timeout)
        return task_result(task)

    @_operation
    def cancel_task(self, task_id: str) -> Result:
        """Cancel a task; a running attempt is killed."""
        self._opened.cancel_task(given_text(task_id, "task_id"), timeout=self._timeout)
        return {"task_id": task_id}

    @_operation
    def get_tasks(
        self, status_filter: str | None = None, type_filter: str | None = None, limit: int = 100
    ) -> Result:
        """The newest tasks."""
        states = given_status(status_filter)
        limit = given_count(limit, "limit")
        asked = limit
        while True:
            tasks = self._opened.list_tasks(
                states=states, task_type=type_filter or "", limit=asked, timeout=self._timeout
            )
            shown = map(task_result, tasks)
            found = [each for each in shown if status_filter in (None, "", each["status"])]
            if len(found) >= limit or len(tasks) < asked or asked >= FAILED_TASKS_MAX:
                break
            asked *= 10  # Those that failed and those that timed out are listed as one.
        return {"tasks": found[:limit], "count": len(found[:limit])}

    @_operation
    def get_nodes(self, role_filter: str | None = None) -> Result:
        """The nodes."""
        if role_filter is not None:
            given_role(role_filter)
        nodes = self._opened.list_nodes(timeout=self._timeout)
        found = [node_result(n) for n in nodes if role_filter in (None, n.role)]
        return {"nodes": found, "count": len(found)}

    @_operation
    def register_task_handler(self, task_type: str, handler_func: Callable[..., Any]) -> Result:
        """Give this kit's worker a handler, and start it again with that.

        A copy of the file that defines the function goes into the handlers of this node, so it must
        stand at the top of a module of its own, and import nothing beside it. After a failure the
        node has the handlers that it had.
        """
        from ipfs_cluster_node.kit.handlers import handler_file

        node = self._node
        if node is None or self.role != Role.WORKER:
            raise KitError(
                ErrorType.VALIDATION,
                "handlers run on workers; call this on the kit of one, or see docs/handlers.md",
            )
        name, text = handler_file(task_type, handler_func)
        # Asked first: where no leader answers, the node is not stopped.
        nodes = self._opened.list_nodes(timeout=self._timeout)
        kept = [t for each in nodes if each.node_id == node.node_id for t in each.task_types]
        path = node.put_handler(name, text, self._opened, task_type=task_type, kept=kept)
        return {"task_type": task_type, "handler_file": str(path), "node_id": node.node_id}

    @_operation
    def propose_config_change(self, key: str, value: object) -> Result:
        """Change a setting of the cluster, or a key of your own below `user.`."""
        key, text = given_text(key, "key"), given_setting(value, "value")
        self._opened.propose_config({key: text}, timeout=self._timeout)
        return {"key": key, "value": text}

    @_operation
    def generate_auth_token(
        self, peer_id: str, capabilities: list[str] | tuple[str, ...] = ("read",)
    ) -> Result:
        """Delegate to a member; `token` is a container of UCAN delegations."""
        from ipfs_cluster_node.kit import tokens

        names = given_texts(capabilities, "capabilities")
        commands = tokens.commands_of(names)
        client = self._opened
        assert self._profile is not None
        audience = tokens.did_of_peer(given_text(peer_id, "peer_id"))
        token, expires_s = tokens.signed_token(
            client, self._profile, audience, commands, self._timeout
        )
        return {
            "token": token,
            "peer_id": peer_id,
            "expiration": expires_s,
            "capabilities": names,
            "commands": list(map(str, commands)),
        }

    @_operation
    def verify_peer_identity(self, peer_id: str, presented_token: object) -> Result:
        """Ask the cluster whether it accepts a member's token now: `verified`.

        `presented_token` is a token, or the whole result of `generate_auth_token`.
        """
        from ipfs_cluster_node.kit import tokens

        token = presented_token
        if isinstance(token, Mapping):
            token = token.get("token")
        audience = tokens.did_of_peer(given_text(peer_id, "peer_id"))
        if not isinstance(token, str) or not token:
            raise KitError(ErrorType.VALIDATION, "there is no token in what was presented")
        ok, why = tokens.verified(self._opened, audience, token, self._timeout)
        return {"verified": ok, "peer_id": peer_id} | ({} if ok else {"why": why})

    @_operation
    def get_cluster_metrics(self, **_arguments: Any) -> Result:
        """Not supported yet."""
        raise not_supported("get_cluster_metrics")

    @_operation
    def evaluate_potential_roles(self, **_arguments: Any) -> Result:
        """Not supported yet."""
        raise not_supported("evaluate_potential_roles")

    @_operation
    def change_role(self, target_role: str, *, force: bool = False, **_arguments: Any) -> Result:
        """Not supported yet, but for the role that the node has."""
        del force
        given_role(target_role)
        if target_role == self.role and self._node is not None:
            return {
                "message": f"Node is already in {target_role} role",
                "current_role": self.role,
                "target_role": target_role,
            }
        raise not_supported("change_role")

    @_operation
    def stop_cluster_manager(self) -> Result:
        """End the node and the client, as `close`."""
        self.close()
        self.cluster_manager = None
        return {}

    @_operation
    def ipfs_kit_ready(self) -> Result:
        """Whether the cluster answers and the kit's node runs: `ready`, else `why` not."""
        self._opened.get_cluster_status(timeout=self._timeout)
        if self._node is not None and self._node.pid is None:
            return {"ready": False, "why": self._node.why_ended()}
        return {"ready": True}

    def __call__(self, method: str, *positional: Any, **arguments: Any) -> Result:
        """Call a method by its name, with its arguments."""
        method = str(method)  # Whatever it is, the answer is a result.
        if method == "create_task":
            method = "submit_cluster_task"
            if "parameters" in arguments:
                arguments["payload"] = arguments.pop("parameters")
        found = getattr(self, method, None) if method in METHODS else None
        if found is None:
            known = ", ".join(sorted(METHODS))
            return failed(
                started(method),
                KitError(ErrorType.VALIDATION, f"no method {method!r:.80}; there are {known}"),
            )
        from inspect import signature

        try:
            signature(found).bind(*positional, **arguments)
        except TypeError as error:
            return failed(started(method), KitError(ErrorType.VALIDATION, f"{method}: {error}"))
        answer: Result = found(*positional, **arguments)
        return answer

    @property
    def _opened(self) -> "SyncClient":
        if self._client is None:
            raise self._no_client
        return self._client


METHODS: Final = frozenset(
    {
        "cancel_task",
        "generate_auth_token",
        "get_cluster_status",
        "get_nodes",
        "get_task_status",
        "get_tasks",
        "ipfs_kit_ready",
        "propose_config_change",
        "register_task_handler",
        "stop_cluster_manager",
        "submit_cluster_task",
        "verify_peer_identity",
        *NOT_SUPPORTED,
    }
)
"""Those that `kit(method)` calls; `create_task` is `submit_cluster_task`."""
