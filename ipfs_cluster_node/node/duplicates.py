"""Checks for a single master that its home was not copied: no other process has its identity.

With several voters, the others refuse a copy of one. A copy of the only voter would elect itself,
and acknowledge writes that exist nowhere else. So before it votes it calls every address that its
log, its file of the masters and its settings have for it. It already listens then: of two that
know each other's address, at least one finds the other.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.core.boots import UNKNOWN, other_address, runs_twice
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.node.health_calls import ask_health

ANSWER_SECONDS_MAX: Final = 2.0
"""How long a start waits for a silent address. One without a listener refuses at once."""
ASK_AGAIN_SECONDS: Final = 1.0
"""Between two probes of an address that did not answer: a process there may resume."""


class DuplicateCheck:
    """Looks for other processes of this node's identity."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        boot: int,
        addresses: Callable[[], Iterable[str]],
        votes_alone: Callable[[], bool],
        tls: Callable[[], ClientTls],
    ) -> None:
        """Start without having called any address of this node, present or former.

        Unless `votes_alone`, nothing is called.
        """
        self._node_id, self._boot = node_id, boot
        self._addresses, self._votes_alone, self._tls = addresses, votes_alone, tls
        self._unheard: set[str] = set()
        """Addresses where this process itself did not answer."""

    async def check(self) -> None:
        """Check that no other process answers, so that this node may lead.

        Raises:
            ClusterError: MEMBER_RUNS_TWICE, if one does.
        """
        if self._votes_alone():
            self._unheard = set(self._addresses())
            await self._ask()

    async def run(self) -> None:
        """Keep calling, while this node leads, addresses where another process may answer.

        The one that answers may have started later, and not know this node's address. So this one
        stops anyway: of two leaders, each would acknowledge writes that the other never gets.

        Raises:
            ClusterError: MEMBER_RUNS_TWICE.
        """
        while True:
            await asyncio.sleep(ASK_AGAIN_SECONDS)
            if self._unheard and self._votes_alone():
                await self._ask()

    async def _ask(self) -> None:
        asked = sorted(self._unheard)
        tls = self._tls()
        answers = await asyncio.gather(
            *(
                ask_health((address, self._node_id), tls, timeout=ANSWER_SECONDS_MAX)
                for address in asked
            )
        )
        heard = {
            address: answer.boot or UNKNOWN
            for address, answer in zip(asked, answers, strict=True)
            if not isinstance(answer, ClusterError)
        }
        other = other_address(self._boot, heard)
        if other is not None:
            raise runs_twice(self._node_id, other)
        self._unheard -= heard.keys()
