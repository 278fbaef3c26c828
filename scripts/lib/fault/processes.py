"""Faults of processes and their clocks."""

import asyncio
import itertools
from typing import Final

from scripts.lib.fault.scene import Scene

STOP_SECONDS: Final = (3, 15)
FAKETIME: Final = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


async def kill(scene: Scene) -> None:
    """R1: kill -9 of one node every 2 s; it starts again after 0.5 s."""
    while scene.goes_on:
        async with scene.hands:
            node = await scene.victim()
            scene.note_fault()
            await scene.lab.kill(node)
            await asyncio.sleep(0.5)
            await scene.lab.start_node(node)
        await asyncio.sleep(1.5)


async def kill_all(scene: Scene) -> None:
    """R2: kill -9 of all nodes at once."""
    while scene.goes_on:
        scene.note_fault()
        await asyncio.gather(*(scene.lab.kill(node) for node in scene.lab.nodes))
        await scene.start(scene.lab.nodes)
        await asyncio.sleep(4)


async def stop(scene: Scene) -> None:
    """R9: the leader or a follower is stopped (SIGSTOP) for 3 or 15 s, and goes on as it was."""
    for seconds, leads in itertools.cycle(itertools.product(STOP_SECONDS, (True, False))):
        if not scene.goes_on:
            break
        node = await scene.leader_or_follower(leads=leads)
        scene.note_fault()
        scene.lab.pause(node, paused=True)
        await asyncio.sleep(seconds)
        scene.lab.pause(node, paused=False)
        await asyncio.sleep(2)


async def clock(scene: Scene) -> None:
    """R15: a node's clock is 300 s off, back or forth, or runs a tenth too fast."""
    while scene.goes_on:
        node = await scene.victim()
        shift = scene.rng.choice(("+300s", "-300s", "+0 x1.1"))
        scene.note_fault()
        await scene.lab.kill(node)
        node.prefix = (
            "env",
            f"LD_PRELOAD={FAKETIME}",
            f"FAKETIME={shift}",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        )
        await scene.lab.start_node(node)
        await asyncio.sleep(5)
        await scene.lab.kill(node)
        node.prefix = ()
        await scene.lab.start_node(node)
        await asyncio.sleep(2)
