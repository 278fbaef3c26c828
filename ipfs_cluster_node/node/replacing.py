"""`join --replace`: this machine joins in place of a node of the same name that is gone."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.config.files import make_private_directory, sync_directory
from ipfs_cluster_node.config.home import OF_NO_USER, REPLACED_PREFIX, Home
from ipfs_cluster_node.config.profiles import move_profiles
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import Liveness, Role
from ipfs_cluster_node.core.views import ListedNode


async def replace_node(
    open_client: Callable[[], Client],
    home: Home,
    name: str,
    role: Role | None,
    *,
    confirm: Callable[[str], None] = lambda _what: None,
    on_done: Callable[[str], None],
    now: datetime,
) -> None:
    """Remove the node of this name, by the rights of a client, and free the home. Safe to repeat.

    Args:
        open_client: The client, which may remove nodes.
        home: Of the node that joins.
        name: Of both nodes.
        role: Of the node that joins, which the other must have had; None: whatever it had.
        confirm: Called with what is about to be removed; raises to leave it.
        on_done: Told what was done.
        now: The time, which names the directory of the old files.

    Raises:
        ClusterError: Those of `RemoveNode`, and of `replaced_node`; HOME_IN_USE.
    """
    with ExitStack() as locked:
        own = None
        if home.is_taken:
            locked.enter_context(home.lock())  # Before anything is removed.
            own = Identity.load(home.identity).node_id if home.identity.exists() else None
        async with open_client() as client:
            gone = replaced_node(
                await client.list_nodes(), name, own, role, again=has_replaced(home)
            )
            if gone is not None:
                confirm(f"{gone.role} {name} ({gone.node_id}), which is {gone.liveness}")
                await client.remove_node(gone.node_id)
                on_done(f"{name} ({gone.node_id}) is removed")
        aside = await asyncio.to_thread(move_aside, home, now=now)
    if aside is not None:
        on_done(f"the files of the node that was in {home.path} are in {aside}")


def replaced_node(
    nodes: Sequence[ListedNode],
    name: str,
    own: str | None,
    role: Role | None,
    *,
    again: bool,
) -> ListedNode | None:
    """The node to remove; None if an earlier try did that.

    `own` is the node in the home of the one that joins, if there is one; `role` is what the removed
    node must be, if that matters; `again` says that there was an earlier try.

    Raises:
        ClusterError: INVALID_ARGUMENT, if it is alive or has another role, or if several have this
            name; MEMBER_NOT_FOUND, if none has; HOME_EXISTS, if the node in the home is another
            member.
    """
    found = [node for node in nodes if node.name == name]
    if len(found) > 1:
        ids = ", ".join(node.node_id for node in found)
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"several nodes are named {name} ({ids}); remove those that are gone with "
            "`node remove`, and join without --replace",
        )
    gone = found[0] if found else None
    if gone is not None and gone.liveness is Liveness.ALIVE:
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"{name} ({gone.node_id}) is alive; run `leave` on its machine, or choose another name "
            "with --name",
        )
    if gone is not None and role is not None and gone.role is not role:
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"{name} ({gone.node_id}) is a {gone.role}, and the token is for a {role}; have a "
            f"token made for a {gone.role}, choose another name with --name, or add --change-role",
        )
    other = next((node for node in nodes if node.node_id == own and node is not gone), None)
    if other is not None:
        raise ClusterError(
            Reason.HOME_EXISTS,
            f"the node of this home, {other.name} ({own}), is another member; run `leave` first, "
            "or name another directory with --home",
        )
    if gone is None and own is None and not again:
        raise ClusterError(
            Reason.MEMBER_NOT_FOUND,
            f"no node is named {name}; name the lost one with --name, as `node list` does, or join "
            "without --replace, also if an earlier try has removed it",
        )
    return gone


def has_replaced(home: Home) -> bool:
    """Whether an earlier try moved a node's files aside here."""
    return home.path.is_dir() and any(
        each.name.startswith(REPLACED_PREFIX) for each in home.path.iterdir()
    )


def move_aside(home: Home, *, now: datetime) -> Path | None:
    """Move a node's files into a directory in its locked home; None if no node is there. Blocks.

    Nothing is deleted. What marks that a node is there goes last: a repeat moves the rest.
    """
    if not home.is_taken:
        return None
    aside = home.path / f"{REPLACED_PREFIX}{now:%Y%m%dT%H%M%S.%fZ}"
    make_private_directory(aside)
    last = (home.identity.name, home.config.name)
    names = [each.name for each in home.path.iterdir() if _is_of_node(each.name)]
    for name in sorted(names, key=lambda name: (last.index(name) if name in last else -1, name)):
        (home.path / name).rename(aside / name)
        move_profiles(home.path / name, aside / name)
    sync_directory(aside)
    sync_directory(home.path)
    return aside


def _is_of_node(name: str) -> bool:
    return name not in ("lock", *OF_NO_USER) and not name.startswith(REPLACED_PREFIX)
