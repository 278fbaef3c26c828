"""Which callers may call which method, and the delegation that a client needs for it.

Each method's rule is an option in its proto (`options.proto`). A method without one is refused,
and a server that has such a method does not start.
"""

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from google.protobuf.descriptor import MethodDescriptor

from ipfs_cluster_node import v1 as clients
from ipfs_cluster_node.access.audited import AUDITED, AuditedOf
from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.requirements import DECODERS, REQUIREMENTS, RequirementsOf
from ipfs_cluster_node.access.shares import SHARES, Share
from ipfs_cluster_node.codec.enums import CALLER_CLASS
from ipfs_cluster_node.core.model import BACKUP_SECONDS_MAX
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.internal import v1 as internal
from ipfs_cluster_node.v1.options_pb2 import rule
from ipfs_cluster_node.worker import v1 as workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Who may call a method."""

    callers: frozenset[CallerClass]
    delegated: frozenset[CallerClass] = frozenset({CallerClass.CLIENT})
    """Classes that need delegations. For the others, their class suffices."""
    command: Command | None = None
    """The command that they must have been delegated. None: the class suffices, or
    `decides_itself`."""
    decides_itself: bool = False
    """Whether the method decides, by the delegations that its request and the state name."""
    decode: Callable[[Any], Any] | None = None
    """Decodes the request to the value that is judged and served. None: the message itself."""
    required: RequirementsOf | None = None
    """Derives what policies are evaluated on. None: the method filters its results itself."""
    changes: bool = False
    """Whether it changes or hands out everything: such calls are in the audit log."""
    audited: AuditedOf | None = None
    """What the audit log says of a request. None: nothing but the call itself."""
    signable: bool = True
    """Whether a signed invocation is accepted. Not where it would leave the payload unsigned."""
    seconds_max: float | None = None
    """How long a stream may run: one that isn't read to its end keeps its resources."""
    share: Share | None = None
    """Limits how many calls run at once."""
    without_log: bool = False
    """Whether a node without a log, which knows of no delegations, answers any member."""

    def __post_init__(self) -> None:
        """Refuse a change that no policy could bound."""
        if self.changes and self.command is not None and self.required is None:
            raise ValueError(f"{self.command} changes something, so its arguments are judged")


PACKAGES: Final = (clients, workers, internal)
"""What clients call, what workers call beyond it, and what only masters call."""

TABLE_SECONDS_MAX: Final = 300.0
"""How long the caller may take to read a table, by `GetSnapshot` or as the beginning of a watch."""
SECONDS_MAX: Final = {
    "MembershipService/CreateBackup": BACKUP_SECONDS_MAX,
    "StateDeltaService/GetSnapshot": TABLE_SECONDS_MAX,
}

_MEMBERS: Final = frozenset({CallerClass.CLIENT, CallerClass.NODE, CallerClass.MASTER})
_THIRD_PARTY_METHODS: Final = {
    "/grpc.health.v1.Health/Check": Rule(callers=_MEMBERS | {CallerClass.JOINER}),
    "/grpc.health.v1.Health/List": Rule(callers=_MEMBERS),
    "/grpc.health.v1.Health/Watch": Rule(callers=_MEMBERS),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(callers=_MEMBERS),
}
"""Rules of methods whose protos are not ours."""


def _classes(callers: Iterable[int]) -> frozenset[CallerClass]:
    return frozenset(CallerClass(CALLER_CLASS.words[caller]) for caller in callers)


def rule_of(method: MethodDescriptor) -> Rule | None:
    """Read the rule of a method; None if it has none.

    Raises:
        ValueError: The option has a command and nothing judges it, or the reverse.
    """
    options = method.GetOptions()
    if not options.HasExtension(rule):
        return None
    said = options.Extensions[rule]
    name = f"{method.containing_service.name}/{method.name}"
    if said.decides_itself and said.command:
        raise ValueError(f"{name}: it has a command, or decides itself")
    if (name in REQUIREMENTS) != (said.command != "" and not said.by_item):
        raise ValueError(f"{name}: REQUIREMENTS has a line if there is a command, and not by_item")
    return Rule(
        callers=_classes(said.callers),
        delegated=_classes(said.delegated) | {CallerClass.CLIENT},
        command=Command(said.command) if said.command else None,
        decides_itself=said.decides_itself,
        decode=DECODERS.get(name),
        required=REQUIREMENTS.get(name),
        changes=said.changes,
        audited=AUDITED.get(name),
        signable=not said.unsignable,
        seconds_max=SECONDS_MAX.get(name),
        share=SHARES.get(name),
        without_log=said.without_log,
    )


def methods() -> Iterator[MethodDescriptor]:
    """Every method of our protos."""
    for package in PACKAGES:
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if module.name.endswith("_pb2"):
                for service in import_module(module.name).DESCRIPTOR.services_by_name.values():
                    yield from service.methods


RULES_BY_METHOD: Final[Mapping[str, Rule]] = _THIRD_PARTY_METHODS | {
    f"/{method.containing_service.full_name}/{method.name}": found
    for method in methods()
    if (found := rule_of(method)) is not None
}
