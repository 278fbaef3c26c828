"""Runs one fault against a cluster of three masters, and checks what its clients saw."""

import argparse
import asyncio
import json
import logging
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Coroutine
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.cli.local_cluster import LocalNode
from scripts.lib.fault.every import run_all
from scripts.lib.fault.lab import Lab, Net
from scripts.lib.fault.linearizable import violations
from scripts.lib.fault.needs import missing, prefix
from scripts.lib.fault.scenarios import (
    CONTROLS,
    DAMAGING,
    NEED_DISKS,
    NEED_NET,
    SCENARIOS,
    faults_min,
)
from scripts.lib.fault.scene import Scene
from scripts.lib.fault.workload import Workload

GAP_SECONDS_MAX: Final = {
    "kill-all": 5.0,
    "powerloss": 5.0,
    "oneway": 4.0,
    "partial": 4.0,
    "loss": 10.0,
    "slowlink": 10.0,
    "members": 5.0,
    "members-cut": 5.0,
    "watch": 5.0,
    "removals": 5.0,
}
"""The longest time without an acknowledged write; 3 s where a majority stays.

To those that end a majority comes the time that its processes take to listen again.
"""
ELECTIONS_MAX: Final = {"delay": 1, "duplicate": 1}
"""Terms: where links are bad and nobody is gone there is nothing to elect."""
INSIDE: Final = "--inside"
"""Said to itself: this process has its own network or mounts, as the fault needs."""
SETTLE_SECONDS: Final = 3.0
EQUAL_SECONDS_MAX: Final = 10.0


async def run_fault(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """Run one fault; returns what came of it, with what was wrong under `wrong`."""
    root = Path(tempfile.mkdtemp(prefix="fault-"))
    rng = random.Random(seed)  # noqa: S311
    control = name in CONTROLS
    lab = Lab(
        root,
        disks=name in NEED_DISKS,
        net=Net() if name in NEED_NET else None,
        syncs=name != "control-lying-disk",
    )
    report: dict[str, Any] = {}
    try:
        await lab.start(masters=3, workers=0)
        workload, over = Workload(lab, rng, stale=name == "control-stale-reads"), asyncio.Event()
        working = asyncio.create_task(workload.run(over))
        await asyncio.sleep(1)
        began, term = time.monotonic(), await lab.term()
        scene = Scene(lab, rng, workload.history, began + seconds)
        await SCENARIOS[name](scene)
        await asyncio.sleep(SETTLE_SECONDS)
        ended = time.monotonic()
        over.set()
        await working
        await workload.read_everything()
        history = workload.history
        longest, longest_at = history.longest_gap(began, ended)
        gaps = [history.gap_after(moment) for moment in scene.faults]
        report = {
            "fault": name,
            "seed": seed,
            "seconds": round(ended - began, 1),
            "faults": len(scene.faults),
            "calls": len(history.calls),
            "acknowledged_writes": len(history.acknowledged_at),
            "unanswered": history.refused,
            "gap_longest_s": round(longest, 2),
            "gap_longest_at_s": round(longest_at - began, 1),
            "faults_at_s": [round(moment - began, 1) for moment in scene.faults],
            "gap_median_s": round(statistics.median(gaps), 2) if gaps else 0.0,
            "elections": await lab.term() - term,
            "notes": scene.notes,
        }
        report["wrong"] = [
            *scene.wrong,
            *(f"{key} is not linearizable" for key in violations(history.calls)),
            *await _differences(lab),
            *_repaired(lab, name),
        ]
        few = [*scene.missed, *too_few(len(scene.faults), faults_min(name, seconds))]
        if control:
            report["wrong"] = few or ([] if report["wrong"] else ["what is wrong was not seen"])
            return report
        report["wrong"] += few
        limit = round(GAP_SECONDS_MAX.get(name, 3.0) + scene.start_seconds_max, 2)
        if report["gap_longest_s"] > limit:
            report["wrong"].append(f"no write for {report['gap_longest_s']} s, limit {limit} s")
        limit = ELECTIONS_MAX.get(name, inf)
        if report["elections"] > limit:
            report["wrong"].append(f"{report['elections']} elections, limit {limit}")
        return report
    finally:
        if report and not report["wrong"]:
            await lab.stop()
            shutil.rmtree(root, ignore_errors=True)
        else:
            try:
                for node in lab.nodes:
                    with suppress(FileNotFoundError):  # It was never started.
                        shutil.copy(node.home.path / "log", root / f"{node.name}.log")
            finally:
                await lab.stop()
            print(f"the nodes' logs are in {root}", file=sys.stderr)


async def _differences(lab: Lab) -> list[str]:
    """The nodes whose settings are not the leader's, once all had time to catch up."""
    async with lab.client() as client:
        wanted = {e.key: e.value for e in await client.get_config()}
    deadline = time.monotonic() + EQUAL_SECONDS_MAX
    while True:
        wrong = [n.name for n in lab.nodes if await _settings_of(lab, n) != wanted]
        if not wrong or time.monotonic() > deadline:
            return [f"{name} has another state than the leader" for name in wrong]
        await asyncio.sleep(0.2)


def _repaired(lab: Lab, name: str) -> list[str]:
    """The nodes that took their log for damaged, where none was."""
    if name in DAMAGING:
        return []
    return [f"{n.name} threw its log away" for n in lab.nodes if n.home.damaged_logs()]


def too_few(count: int, least: int) -> list[str]:
    """A run that broke nothing proves nothing."""
    return [f"{count} faults, at least {least} are wanted"] if count < least else []


async def _settings_of(lab: Lab, node: LocalNode) -> dict[str, str]:
    async with lab.client(node, stale=True) as client:
        return {e.key: e.value for e in await client.get_config()}


async def _until_told(run: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Run to the end, or until SIGTERM: the nodes are stopped in either case."""
    task = asyncio.ensure_future(run)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="scripts/fault", description=__doc__)
    parser.add_argument("name", choices=["all", *sorted(SCENARIOS)])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long things break, each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if given.name == "all":
        return run_all(given.seconds, given.seed)
    if not given.inside:
        why = missing(given.name)
        if why:
            print(f"skipped: {why}")
            return 1 if os.environ.get("CI") == "true" else 0
        if prefix(given.name):
            same = (sys.executable, "-m", "scripts.lib.fault", *sys.argv[1:], INSIDE)
            os.execvp(prefix(given.name)[0], (*prefix(given.name), *same))
    report = asyncio.run(_until_told(run_fault(given.name, given.seconds, given.seed)))
    print(json.dumps(report), flush=True)
    if report["wrong"]:
        again = f"scripts/fault {given.name} --seconds {given.seconds:g} --seed {given.seed}"
        print(f"failed: {'; '.join(report['wrong'])}; again: {again}", file=sys.stderr)
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
