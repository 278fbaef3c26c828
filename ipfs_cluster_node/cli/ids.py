"""How tables show ids: short for people, whole for programs."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.names import NODE, IdKind, Named

if TYPE_CHECKING:
    from ipfs_cluster_node.core.views import ListedNode

ASK_TIMEOUT: Final = timedelta(seconds=3)
"""For names that only make a table more readable."""

Shown = Callable[[str], str]

wide_option = click.option("--wide", is_flag=True, help="Show whole ids and all columns.")


def shown_ids(kind: IdKind, ids: Iterable[str], *, wide: bool) -> Shown:
    """How a table shows these ids: short on a terminal, whole with `wide` or in a pipe."""
    if wide or not sys.stdout.isatty():
        return str
    short = kind.shortest(ids)
    return lambda each: short.get(each, each)


async def node_names(client: Any, *, wanted: bool = True) -> Shown:
    """How a message names nodes: name and id; by the id alone what is not known or not wanted."""
    nodes = await _nodes(client) if wanted else []
    known = {node.node_id: str(Named(node.node_id, node.name)) for node in nodes}
    return lambda node_id: known.get(node_id, node_id)


async def shown_nodes(client: Any, *, wide: bool) -> Shown:
    """How a table shows nodes, with a call for their names where it shows names."""
    if wide or not sys.stdout.isatty():
        return str
    return nodes_shown(await _nodes(client), wide=wide)


def nodes_shown(nodes: Sequence["ListedNode"], *, wide: bool) -> Shown:
    """How a table shows nodes: by name on a terminal, by whole id with `wide` or in a pipe.

    A node whose name another has too, or that is not known (any more), is shown by a short id.
    """
    if wide or not sys.stdout.isatty():
        return str
    count = Counter(node.name for node in nodes)
    names = {node.node_id: node.name for node in nodes if node.name and count[node.name] == 1}
    short = NODE.shortest(node.node_id for node in nodes)

    def shown(node_id: str) -> str:
        return names.get(node_id) or short.get(node_id) or NODE.shortest([node_id])[node_id]

    return shown


async def _nodes(client: Any) -> list["ListedNode"]:
    try:
        return await client.list_nodes(timeout=ASK_TIMEOUT)  # type: ignore[no-any-return]
    except ClusterError:
        return []  # Perhaps not allowed.
