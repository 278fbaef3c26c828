"""Faults of links between nodes, and changes of the members meanwhile."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

from ipfs_cluster_node.cli.local_cluster import LocalNode
from ipfs_cluster_node.core.errors import ClusterError
from scripts.lib.fault.processes import kill
from scripts.lib.fault.scene import Scene

Pairs = Callable[[LocalNode, list[LocalNode]], list[tuple[LocalNode, LocalNode]]]
"""Who does not reach whom, given the victim and the others."""
CHANGE_SECONDS_MAX: Final = 30.0
"""For a change of the members that is refused while nodes are away."""
CUT_SECONDS: Final = 6.0
HEALED_SECONDS: Final = 3.0
ONE_WAY_TERMS_MAX: Final = 5
"""In one cut, however long."""


async def cut(scene: Scene) -> None:
    """R10: one node, the leader in half the cases, is cut off for 6 s."""
    await _cuts(scene, lambda node, others: [p for o in others for p in ((node, o), (o, node))])


async def oneway(scene: Scene) -> None:
    """R11: the leader or a follower hears nobody, or nobody hears it; elections are few."""
    cases = list(itertools.product((True, False), (True, False)))
    seconds = scene.seconds_of_case(len(cases), CUT_SECONDS)
    for leads, deaf in cases:
        node = await scene.leader_or_follower(leads=leads)
        term = await scene.lab.term()
        others = [other for other in scene.lab.nodes if other is not node]
        await _cut(scene, [(o, node) if deaf else (node, o) for o in others], seconds)
        grown = await scene.lab.term() - term
        who = f"{'leader' if leads else 'follower'} {'deaf' if deaf else 'mute'}"
        scene.notes.append(f"{who} for {seconds:.0f} s: {grown} terms")
        if grown >= ONE_WAY_TERMS_MAX:
            scene.wrong.append(f"{who}: {grown} terms, limit {ONE_WAY_TERMS_MAX - 1}")


async def partial(scene: Scene) -> None:
    """R12: two nodes do not hear each other, the third hears both, for 6 s."""

    def pairs(node: LocalNode, others: list[LocalNode]) -> list[tuple[LocalNode, LocalNode]]:
        other = scene.rng.choice(others)
        return [(node, other), (other, node)]

    await _cuts(scene, pairs)


async def loss(scene: Scene) -> None:
    """R13: every link between nodes loses packets: 5 % at first, then 20 %."""
    await _spoil_all(scene, {"loss": 0.05}, {"loss": 0.2})


async def delay(scene: Scene) -> None:
    """R13: every packet between nodes is late by 0 to 200 ms, so that they overtake each other."""
    await _spoil_all(scene, {"jitter": 0.2})


async def duplicate(scene: Scene) -> None:
    """R13: a tenth of the packets between nodes comes twice, with up to 10 ms between."""
    await _spoil_all(scene, {"duplicate": 0.1, "jitter": 0.01})


async def slowlink(scene: Scene) -> None:
    """R13: every link between nodes takes 1 Mbit/s."""
    await _spoil_all(scene, {"bytes_per_second": 125_000.0})


async def members(scene: Scene) -> None:
    """R18: masters are added and removed while nodes are killed every 2 s."""
    await _change_members(scene, kill)


async def members_cut(scene: Scene) -> None:
    """R18: masters are added and removed while nodes are cut off."""
    await _change_members(scene, cut)


async def control_stale_reads(scene: Scene) -> None:
    """R24: clients take stale reads for true ones; the checks must see it."""
    await cut(scene)


async def _spoil_all(scene: Scene, *rules: dict[str, float]) -> None:
    net, rest = scene.lab.net, scene.ends_at - time.monotonic()
    assert net is not None
    for rule in rules:
        scene.note_fault()
        for sender, receiver in itertools.permutations(scene.lab.nodes, 2):
            net.spoil(sender, receiver, **rule)
        await asyncio.sleep(rest / len(rules))
        words = ", ".join(f"{name} {value:g}" for name, value in rule.items())
        scene.check_happened(net.touched(), words)
    net.heal()


async def _change_members(
    scene: Scene, trouble: Callable[[Scene], Coroutine[Any, Any, None]]
) -> None:
    """Have a fourth master join and one of the others leave, over and over, while trouble goes on.

    The first master stays: tokens are redeemed there. At the end three are members, and vote.
    """
    async with asyncio.TaskGroup() as group:
        group.create_task(trouble(scene))
        changes = 0
        while scene.goes_on and (scene.lab.net is None or scene.lab.net.has_room):
            joining = scene.lab.make_node(f"master-{4 + changes}")
            await _until_done(scene.lab.add_master, joining)
            # Otherwise two were left, and the cut of one of them rightly ends all writes.
            await _until_done(scene.lab.check_votes, joining)
            leaving = scene.rng.choice(scene.lab.nodes[1:-1])
            await _until_done(scene.remove, leaving)
            changes += 1
    scene.check_happened(changes, "a master replaced by another")
    scene.notes.append(f"{changes} masters replaced")


async def _until_done(change: Callable[[LocalNode], Awaitable[None]], node: LocalNode) -> None:
    """Repeat what is refused while nodes are away."""
    ends = time.monotonic() + CHANGE_SECONDS_MAX
    while True:
        try:
            await change(node)
        except ClusterError:
            if time.monotonic() > ends:
                raise
            await asyncio.sleep(0.3)
        else:
            return


async def _cuts(scene: Scene, pairs: Pairs) -> None:
    while scene.goes_on:
        node = await scene.victim()
        await _cut(scene, pairs(node, [n for n in scene.lab.nodes if n is not node]), CUT_SECONDS)


async def _cut(scene: Scene, pairs: Iterable[tuple[LocalNode, LocalNode]], seconds: float) -> None:
    net = scene.lab.net
    assert net is not None
    scene.note_fault()
    for sender, receiver in pairs:
        net.cut(sender, receiver)
    await asyncio.sleep(seconds)
    scene.check_happened(net.touched(), "packets that are cut off")
    net.heal()
    await asyncio.sleep(HEALED_SECONDS)
