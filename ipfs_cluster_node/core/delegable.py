"""What can be delegated: every command, and the arguments that policies on it may name."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Final

from ipfs_cluster_node.core import authorization as auth
from ipfs_cluster_node.core.ucan.commands import Command, covers

_TASK: Final = frozenset(auth.UNKNOWN_TASK)
_CONTENT: Final = frozenset(auth.UNKNOWN_CONTENT)
_JOIN_TOKEN: Final = frozenset(auth.join_token_args(None))
_SETTING: Final = frozenset(auth.setting_args(auth.ANY))
_DELEGATION: Final = frozenset({"issuer", "audience"})

ARGUMENTS: Final[Mapping[Command, frozenset[str]]] = {
    auth.AUDIT_READ: frozenset({"node"}),
    auth.BACKUP_CREATE: frozenset({"cluster"}),
    auth.CA_ROTATE: frozenset({"new_root"}),
    auth.CERTIFICATE_LIST: frozenset({"did"}),
    auth.CERTIFICATE_REVOKE: frozenset({"did"}),
    auth.CONFIG_PROPOSE: _SETTING,
    auth.CONFIG_READ: _SETTING,
    auth.CONTENT_ADD: frozenset(auth.new_content_args(None)),
    auth.CONTENT_KEEP: _CONTENT,
    auth.CONTENT_READ: _CONTENT,
    auth.CONTENT_REMOVE: _CONTENT,
    auth.DELEGATION_LIST: _DELEGATION,
    auth.DELEGATION_REVOKE: _DELEGATION,
    auth.HEALTH_READ: frozenset({"source"}),
    auth.JOINER_DECIDE: _JOIN_TOKEN,
    auth.JOINER_LIST: _JOIN_TOKEN,
    auth.LEADERSHIP_TRANSFER: frozenset({"did"}),
    auth.MEMBER_LIST: frozenset({"role"}),
    auth.MEMBER_REMOVE: frozenset({"did", "role"}),
    auth.STATE_READ: frozenset({"table", *auth.ROW_UNKNOWN}),
    auth.TASK_CANCEL: _TASK,
    auth.TASK_READ: _TASK,
    auth.TASK_SUBMIT: frozenset(
        {"namespace", "task_type", "priority", "max_runtime_s", "max_retries", "count"}
    ),
    auth.TOKEN_MINT: frozenset({"role", "ttl_s", "uses", "grant", "namespace", "needs_approval"}),
    auth.TOKEN_REVOKE: _JOIN_TOKEN,
}
"""Each command with all of its arguments. `docs/authorization.md` describes them."""


def check_delegable(command: Command, named: Iterable[str], together: Iterable[str] = ()) -> None:
    """Check that there are commands under `command`, with the arguments that a policy names.

    Otherwise the delegation would never allow anything.

    Args:
        command: What is delegated.
        named: The arguments that the policy names.
        together: Those of them that one command must have all.

    Raises:
        ValueError: Naming the commands, or the arguments, that there are.
    """
    below = {each: args for each, args in ARGUMENTS.items() if covers(command, each)}
    if not below:
        raise ValueError(f"there is no command {command}{_meant(command, ARGUMENTS)}")
    known = frozenset[str]().union(*below.values())
    unknown = sorted(set(named) - known)
    if unknown:
        raise ValueError(f"{command} has no argument {unknown[0]}{_meant(unknown[0], known)}")
    together = set(together)
    if not any(together <= args for args in below.values()):
        raise ValueError(f"no command under {command} has all of {', '.join(sorted(together))}")


def _meant(text: str, known: Iterable[str]) -> str:
    """The known ones, and the one that is written much like this."""
    close = get_close_matches(text, known := sorted(known), 1)
    guess = f"; did you mean {close[0]}?" if close else ";"
    return f"{guess} There are {', '.join(known)}".replace("; There", "; there")
