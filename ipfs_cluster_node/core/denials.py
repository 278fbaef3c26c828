"""Denials in people's words: what the caller may do, what it may not, and who can change that.

Only what the caller has, and what its request says, is told: the state may not be its to see.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core import authorization as auth
from ipfs_cluster_node.core.ids import Did, is_namespace
from ipfs_cluster_node.core.model import DEFAULT_NAMESPACE
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.policies import Equals, Like, Statement
from ipfs_cluster_node.core.ucan.selectors import Field, Selector
from ipfs_cluster_node.core.ucan.tokens import Delegation

WORDS: Final[Mapping[Command, tuple[str, str]]] = {
    auth.AUDIT_READ: ("read", "the audit log"),
    auth.BACKUP_CREATE: ("make", "backups"),
    auth.CA_ROTATE: ("rotate", "certificates"),
    auth.CERTIFICATE_LIST: ("list", "certificates"),
    auth.CERTIFICATE_REVOKE: ("revoke", "certificates"),
    auth.CONFIG_PROPOSE: ("change", "settings"),
    auth.CONFIG_READ: ("read", "settings"),
    auth.CONTENT_ADD: ("add", "files"),
    auth.CONTENT_KEEP: ("keep", "files"),
    auth.CONTENT_READ: ("read", "files"),
    auth.CONTENT_REMOVE: ("remove", "files"),
    auth.DELEGATION_LIST: ("see", "others' delegations"),
    auth.DELEGATION_REVOKE: ("revoke", "others' delegations"),
    auth.HEALTH_READ: ("read", "the health of nodes"),
    auth.JOINER_DECIDE: ("approve or reject", "joiners"),
    auth.JOINER_LIST: ("list", "joiners"),
    auth.LEADERSHIP_TRANSFER: ("transfer", "leadership"),
    auth.MEMBER_LIST: ("list", "nodes"),
    auth.MEMBER_REMOVE: ("remove", "nodes"),
    auth.STATE_READ: ("read", "the state as tables"),
    auth.TASK_CANCEL: ("cancel", "tasks"),
    auth.TASK_READ: ("read", "tasks"),
    auth.TASK_SUBMIT: ("submit", "tasks"),
    auth.TOKEN_MINT: ("make", "join tokens"),
    auth.TOKEN_REVOKE: ("revoke", "join tokens"),
}
"""A verb and its object for each command."""
NAMESPACE: Final = "namespace"
NAMED_MAX: Final = 4
"""Most namespaces that a denial names."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a caller may do under one command."""

    command: Command
    namespaces: tuple[str, ...] = ()
    """Those, or patterns of those, that its delegations name; empty: not limited by them."""
    limited: bool = False
    """Whether there are other conditions."""


def alike(command: Command) -> list[Command]:
    """Other commands on the same things."""
    thing = WORDS[command][1]
    return [each for each, words in WORDS.items() if words[1] == thing and each != command]


def held_by(command: Command, chains: Iterable[Sequence[Delegation]]) -> Held:
    """What valid chains, each root first, let their audience do under a command."""
    namespaces: list[str] = []
    anywhere = limited = False
    for chain in chains:
        within: str | None = None
        for statement in (each for link in chain for each in link.policy):
            named = _namespace_of(statement)
            within = named or within  # The last link is the narrowest.
            limited = limited or named is None
        anywhere = anywhere or within is None
        namespaces += [] if within is None else [within]
    kept = () if anywhere else tuple(dict.fromkeys(namespaces))[:NAMED_MAX]
    return Held(command, kept, limited)


def denial(
    command: Command, did: Did, own: Held | None, others: Sequence[Held], namespace: str = ""
) -> str:
    """Why `did` may not call what needs a command, and what to ask for.

    Args:
        command: What the call needs.
        did: The caller.
        own: What it may do under this command, where its conditions do not hold.
        others: What it may do under the commands `alike`.
        namespace: Where it wanted to, if its request says so.
    """
    verb, thing = WORDS[command]
    instead = ""
    if own is not None and (own.namespaces or own.limited):
        conditions = " within the conditions of your delegation" if own.limited else ""
        said = f"you may {verb} {thing}{_within(own)}{conditions} only"
        if own.namespaces and namespace and namespace not in own.namespaces:
            said += f", and this call is in {namespace}"
            names = [name for name in own.namespaces if is_namespace(name)]
            if names and namespace == DEFAULT_NAMESPACE:
                instead = f"add --namespace {names[0]}, or "
    elif others:
        verbs = " and ".join(f"{WORDS[each.command][0]} {thing}{_within(each)}" for each in others)
        said = f"you may {verbs}, but not {verb} them"
    else:
        said = f"you may not {verb} {thing}"
    options = ""
    if own is not None and command in _BY_NAMESPACE:
        options = _option(namespace or "NAMESPACE")
    elif namespace or (others and others[0].namespaces):
        options = _option(namespace or others[0].namespaces[0])
    asked = f"ipfs-cluster-node token delegate {did} {command}{options}"
    return f"{said}; {instead}ask an operator: {asked}"


_BY_NAMESPACE: Final = frozenset(
    {
        auth.CONTENT_ADD,
        auth.CONTENT_KEEP,
        auth.CONTENT_READ,
        auth.CONTENT_REMOVE,
        auth.TASK_CANCEL,
        auth.TASK_READ,
        auth.TASK_SUBMIT,
    }
)
"""Commands on what is in a namespace."""


def _within(held: Held) -> str:
    return f" in {' and '.join(held.namespaces)}" if held.namespaces else ""


def _option(namespace: str) -> str:
    return f" --where {shlex.quote(f'{NAMESPACE}={namespace}')}"


def _namespace_of(statement: Statement) -> str | None:
    """The namespace, or the pattern, that a statement limits to; None if it is about others."""
    selector: Selector = getattr(statement, "selector", ())
    if len(selector) != 1 or selector[0].step != Field(NAMESPACE):
        return None
    match statement:
        case Equals(value=str(name), negated=False):
            return name
        case Like(glob=glob):
            return "*".join(glob.pieces)
    return None
