"""Choices: words of the core to values of proto enumerations and back."""

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from ipfs_cluster_node.codec.derived import By
from ipfs_cluster_node.core.audit import AuditObjectKind, Outcome
from ipfs_cluster_node.core.certificates import RotationPhase
from ipfs_cluster_node.core.errors import invalid_field
from ipfs_cluster_node.core.model import Liveness, Role, TaskState
from ipfs_cluster_node.core.settings import SettingKind
from ipfs_cluster_node.core.state_events import ResetCause
from ipfs_cluster_node.v1 import (
    audit_pb2,
    certificate_pb2,
    membership_pb2,
    options_pb2,
    roles_pb2,
    state_delta_pb2,
    task_dispatch_pb2,
)

W = TypeVar("W", bound=str)

_UNSET: Final = "UNSPECIFIED"


class Choice(Generic[W]):
    """An enumeration: `ROLE_MASTER` is `master`.

    Unset and values of newer releases are decoded as None, or as an empty string where the core has
    no enumeration.
    """

    def __init__(self, enumeration: Any, word: Callable[[str], W]) -> None:
        """Take a proto's enumeration, and what makes a value of the core from a word."""
        prefix = enumeration.Name(0).removesuffix(_UNSET)
        words = {name.removeprefix(prefix).lower(): n for name, n in enumeration.items() if n}
        self.numbers: Final[dict[str, Any]] = words
        self.words: Final[dict[int, W]] = {number: word(text) for text, number in words.items()}
        get = self.words.get
        decode: Any = (lambda number: get(number, "")) if word is str else get
        self.by: Final = By(words.get, decode)

    def number(self, word: str, field: str) -> Any:
        """Encode a word that a person gave; an empty one is left unset.

        Raises:
            ClusterError: INVALID_ARGUMENT.
        """
        if word and word not in self.numbers:
            raise invalid_field(field, f"it is {word!r}; give {self}")
        return self.numbers.get(word)

    def word(self, number: int, field: str) -> W:
        """Decode a field of a request that must be set.

        Raises:
            ClusterError: INVALID_ARGUMENT.
        """
        if number not in self.words:
            raise invalid_field(field, str(self))
        return self.words[number]

    def __str__(self) -> str:
        """The words, to choose from."""
        *others, last = self.numbers
        return f"{', '.join(others)} or {last}"


ROLE: Final = Choice(roles_pb2.Role, Role)
GRANT: Final = Choice(roles_pb2.Grant, str)
CALLER_CLASS: Final = Choice(options_pb2.CallerClass, str)
SETTING_KIND: Final = Choice(membership_pb2.SettingKind, SettingKind)
LIVENESS: Final = Choice(membership_pb2.NodeLiveness, Liveness)
AUDIT_OBJECT_KIND: Final = Choice(audit_pb2.AuditObjectKind, AuditObjectKind)
OUTCOME: Final = Choice(audit_pb2.AuditOutcome, Outcome)
PHASE: Final = Choice(certificate_pb2.RotationPhase, RotationPhase)
FILE_FORMAT: Final = Choice(task_dispatch_pb2.FileFormat, str)
TASK_STATE: Final = Choice(task_dispatch_pb2.TaskState, TaskState)
RESET_CAUSE: Final = Choice(state_delta_pb2.Reset.Cause, ResetCause)
