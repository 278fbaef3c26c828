"""The health of one node, or of each, asked by this client and shown."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from ipfs_cluster_node.cli.ids import shown_ids
from ipfs_cluster_node.cli.output import (
    json_document,
    print_json,
    print_table,
    print_view,
)
from ipfs_cluster_node.core.errors import ClusterError, Exit, Reason
from ipfs_cluster_node.core.model import Liveness
from ipfs_cluster_node.core.names import NODE, Named, chosen

if TYPE_CHECKING:
    from ipfs_cluster_node.core.views import ListedNode

ASKED_AT_ONCE_MAX: Final = 16
"""Nodes that one client asks for their health at the same time."""
ASK_TIME_MAX: Final = timedelta(seconds=5)
"""For the answer of one node."""
OUTWARD: Final = "only connects out: ask on its machine"


def found_node(nodes: Sequence["ListedNode"], text: str) -> "ListedNode":
    """A node by its name, its id or the beginning of it; raises as `chosen`."""
    named = chosen(NODE, text, [Named(each.node_id, each.name) for each in nodes])
    return next(each for each in nodes if each.node_id == named.id)


async def health_of(client: Any, node_id: str) -> Any:
    """One node's health, by its name, its id or the beginning of it.

    Raises:
        ClusterError: MEMBER_NOT_FOUND, UNREACHABLE, INVALID_ARGUMENT for an ambiguous name.
    """
    nodes = await client.list_nodes()
    found = found_node(nodes, node_id)
    endpoints = reached_at(found, nodes)
    if not endpoints:
        raise ClusterError(Reason.UNREACHABLE, f"{Named(found.node_id, found.name)} {OUTWARD}")
    return await client.get_health(endpoints[0], found.node_id, timeout=ASK_TIME_MAX)


def reached_at(node: Any, nodes: Sequence[Any]) -> Sequence[str]:
    """Where others reach a node; nowhere if it only connects out."""
    from ipfs_cluster_node.core.views import only_connects_out  # `--help` needs none.

    return () if only_connects_out(node, nodes) else node.endpoints


def show_health(answer: Any, *, as_json: bool) -> None:
    """Print one node's health; exits with FAILED if a check fails."""
    said = [f"{answer.name} ({answer.role}), up {answer.uptime_seconds:.0f} s"]
    for check in answer.checks:
        how = "FAIL" if not check.ok else "weak" if check.degraded else "ok"
        said.append(f"  {how:<4} {check.name}: {check.detail}")
    print_view(answer, said, as_json)
    if not all(check.ok for check in answer.checks):
        sys.exit(Exit.FAILED)


def show_health_of_all(answers: Sequence[tuple[Any, Any]], *, as_json: bool) -> None:
    """Print what `health_of_all` returned; exits with FAILED if any node is unwell."""
    if as_json:
        print_json([_document(*each) for each in answers])
    else:
        shown = shown_ids(NODE, [node.node_id for node, _ in answers], wide=False)
        print_table(
            "Health",
            ("node", "name", "role", "health", "what"),
            [(shown(n.node_id), n.name, n.role, *_shown(n, answer)) for n, answer in answers],
        )
    if not all(_is_well(node, answer) for node, answer in answers):
        sys.exit(Exit.FAILED)


async def health_of_all(client: Any) -> Sequence[tuple[Any, Any]]:
    """Each node with its report, why there is none, or None if it can't be asked from here."""
    nodes = await client.list_nodes()
    free = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

    async def ask(node: Any) -> Any:
        endpoints = reached_at(node, nodes)
        if not endpoints:
            return None
        failed: ClusterError | None = None
        limit = ASK_TIME_MAX / len(endpoints)
        async with free:
            for address in endpoints:
                try:
                    return await client.get_health(address, node.node_id, timeout=limit)
                except ClusterError as error:
                    failed = error
        return failed

    return list(zip(nodes, await asyncio.gather(*map(ask, nodes)), strict=True))


def _is_well(node: Any, answer: Any) -> bool:
    if answer is None:
        return bool(node.liveness is Liveness.ALIVE)
    return not isinstance(answer, ClusterError) and all(check.ok for check in answer.checks)


def _shown(node: Any, answer: Any) -> tuple[str, str]:
    if answer is None:
        return str(node.liveness), OUTWARD
    if isinstance(answer, ClusterError):
        return "unreachable" if answer.reason in _SILENT else "unknown", str(answer)
    failed = [check for check in answer.checks if not check.ok]
    weak = [check for check in answer.checks if check.ok and check.degraded]
    what = "; ".join(f"{check.name}: {check.detail}" for check in failed + weak)
    return "FAIL" if failed else "weak" if weak else "ok", what


_SILENT: Final = (Reason.UNREACHABLE, Reason.DEADLINE_EXCEEDED)


def _document(node: Any, answer: Any) -> Any:
    well, (shown, _) = _is_well(node, answer), _shown(node, answer)
    about = {"node_id": node.node_id, "name": node.name, "well": well, "health": shown.lower()}
    if isinstance(answer, ClusterError):
        return about | {"error": {"reason": answer.reason.value, "message": str(answer)}}
    return about if answer is None else about | {"report": json_document(answer)}
