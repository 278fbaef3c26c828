"""The only master makes sure that no other process of its identity runs: a copied home directory.

Where several masters vote, the others refuse the copy of one. The copy of the only one would elect
itself, and acknowledge what is nowhere else. So before it votes it asks at every address that its
log, its file of the masters and its settings name for it. It listens by then: of two that each know
where the other one is, at least one hears of the other.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.core.boots import other_address, runs_twice
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.node.standing import ask_health

ANSWER_SECONDS_MAX: Final = 2.0
"""How long a start waits for an address that says nothing. One where nobody listens refuses."""
ASK_AGAIN_SECONDS: Final = 1.0
"""Between two probes of an address that did not answer: a process there may resume."""


class Copies:
    """Other processes of this node's identity."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        boot: int,
        addresses: Callable[[], Iterable[str]],
        votes_alone: Callable[[], bool],
        tls: Callable[[], ClientTls],
    ) -> None:
        """Ask nobody yet.

        Args:
            node_id: This node.
            boot: This process.
            addresses: Where this node is, or was.
            votes_alone: Whether it is the only voter; else nothing is asked.
            tls: What it shows.
        """
        self._node_id, self._boot = node_id, boot
        self._addresses, self._votes_alone, self._tls = addresses, votes_alone, tls
        self._unheard: set[str] = set()
        """Addresses where this process itself did not answer."""

    async def refuse(self) -> None:
        """Pass where this node may lead, as far as anybody answers.

        Raises:
            ClusterError: MEMBER_RUNS_TWICE.
        """
        if self._votes_alone():
            self._unheard = set(self._addresses())
            await self._ask()

    async def run(self) -> None:
        """Ask on while this node leads, where it was not itself that answered.

        Who answers there may have begun later, and does not know where this node is. So this one
        ends all the same: two that lead would each acknowledge what the other one never gets.

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
            address: answer.boot
            for address, answer in zip(asked, answers, strict=True)
            if not isinstance(answer, ClusterError)
        }
        other = other_address(self._boot, heard)
        if other is not None:
            raise runs_twice(self._node_id, other)
        self._unheard -= heard.keys()
