"""What the kit's methods return: a dict with `success`, and either the answer or the error."""

import uuid
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.core.errors import ClusterError, Exit, Reason, Trait
from ipfs_cluster_node.kit.words import in_words_of_the_kit

Result = dict[str, Any]


class ErrorType(StrEnum):
    """The kinds of errors, as IPFS Kit spells them; the last two are ours."""

    CONNECTION = "connection_error"
    TIMEOUT = "timeout_error"
    NOT_FOUND = "content_not_found"
    VALIDATION = "validation_error"
    CONFIGURATION = "configuration_error"
    FILE = "file_error"
    UNKNOWN = "unknown_error"
    PERMISSION = "permission_error"
    """The caller may not do this."""
    NOT_SUPPORTED = "not_supported"
    """This release has no such part; the message says what brings it."""


class KitError(Exception):
    """Why a kit can't start, or a method failed; `error_type` is for programs."""

    def __init__(
        self, error_type: ErrorType, message: str, *, recoverable: bool = False, reason: str = ""
    ) -> None:
        """Say what is wrong, and the way out.

        With `recoverable` the same call may succeed later. `reason` names the cluster's own.
        """
        super().__init__(message)
        self.error_type, self.message = error_type, message
        self.recoverable, self.reason = recoverable, reason

    def with_hint(self, hint: str) -> "KitError":
        """The same, with more to say."""
        return KitError(
            self.error_type,
            f"{self.message} ({hint})",
            recoverable=self.recoverable,
            reason=self.reason,
        )

    @classmethod
    def of(cls, error: ClusterError, cluster_name: str) -> "KitError":
        """The same for an error of the client, in the words of the kit of that cluster."""
        reason = error.reason
        return cls(
            _type_of(reason),
            in_words_of_the_kit(str(error), cluster_name),  # With the field that is wrong.
            recoverable=reason.has(Trait.RETRYABLE),
            reason=str(reason),
        )


CLUSTER_NAME_DEFAULT: Final = "default"
CALL_TIMEOUT: Final = timedelta(seconds=10)
"""For each call to the cluster."""
NOT_SUPPORTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "change_role": "changing a running node's role comes with dynamic roles; join a node in "
        "the role you want",
        "evaluate_potential_roles": "judging which roles a node could take comes with dynamic "
        "roles; get_nodes shows what each is",
        "get_cluster_metrics": "metrics of nodes come with health monitoring; get_cluster_status "
        "counts nodes and tasks",
    }
)
"""By method: what brings it, and what serves until then. docs/kit.md lists them."""


def not_supported(operation: str) -> KitError:
    """The error of a method that this release does not have."""
    return KitError(ErrorType.NOT_SUPPORTED, NOT_SUPPORTED[operation])


def started(operation: str) -> Result:
    """The beginning of a result; it has not succeeded yet."""
    return {
        "success": False,
        "operation": operation,
        "timestamp": SYSTEM_CLOCK.wall_ms() / 1000,
        "correlation_id": str(uuid.uuid4()),
    }


def failed(result: Result, error: KitError) -> Result:
    """The result of a call that failed."""
    failure = {
        "success": False,
        "error": error.message,
        "error_type": str(error.error_type),
        "recoverable": error.recoverable,
    }
    return result | failure | ({"reason": error.reason} if error.reason else {})


_OF_THE_NODE: Final = frozenset(
    {
        Reason.AUTHORITY_SEALED,
        Reason.CONFIG_INVALID,
        Reason.CONFINEMENT_MISSING,
        Reason.LOG_ROLLED_BACK,
        Reason.MEMBER_RUNS_TWICE,
        Reason.NODE_REMOVED,
        Reason.PORT_IN_USE,
        Reason.PROTOCOL_UNSUPPORTED,
        Reason.RELEASE_TOO_OLD,
        Reason.REMOVED_FROM_CLUSTER,
    }
)
"""What is wrong with a node, or how it was set up."""


def _type_of(reason: Reason) -> ErrorType:
    if reason is Reason.DEADLINE_EXCEEDED:
        return ErrorType.TIMEOUT
    if reason.has(Trait.DENIED):
        return ErrorType.PERMISSION
    if reason in _OF_THE_NODE or reason.name.startswith("HOME_"):
        return ErrorType.CONFIGURATION
    if reason.status == "NOT_FOUND":
        return ErrorType.NOT_FOUND
    if reason.status == "INVALID_ARGUMENT" or reason.exit_status is Exit.USAGE:
        return ErrorType.VALIDATION
    if reason is Reason.STORAGE_FULL:
        return ErrorType.FILE
    if reason.status == "UNAVAILABLE" or reason.has(Trait.RETRYABLE):
        return ErrorType.CONNECTION
    if reason.status in ("FAILED_PRECONDITION", "ALREADY_EXISTS"):
        return ErrorType.VALIDATION  # Things are not such that this can be done.
    return ErrorType.UNKNOWN
