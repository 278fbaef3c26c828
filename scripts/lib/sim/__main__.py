"""Runs seeds. See scripts/sim."""

import argparse
import logging
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final

from scripts.lib.sim.breaks import BREAKS
from scripts.lib.sim.dispatch import run_dispatch
from scripts.lib.sim.dispatch_breaks import DISPATCH_BREAKS
from scripts.lib.sim.run import Report, run_seed

WILD: Final = 5


def main() -> int:
    """Run the seeds that were asked for."""
    parser = argparse.ArgumentParser(prog="scripts/sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many, from --seed on")
    parser.add_argument("--seed", type=int, default=1, help="the first")
    parser.add_argument("--seconds", type=float, default=100.0, help="simulated, each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--break",
        dest="broken",
        default="",
        choices=sorted([*BREAKS, *DISPATCH_BREAKS]),
        help="take a guard out, to see that it is missed",
    )
    parser.add_argument(
        "--wild",
        action="store_true",
        help=f"in every seed, {WILD} times as many messages come twice, late or again",
    )
    parser.add_argument(
        "--tasks", action="store_true", help="workers and their sessions instead of consensus"
    )
    given = parser.parse_args()
    if given.tasks:
        return _dispatch(given)
    began, failed, reports = time.monotonic(), [], []
    seeds = range(given.seed, given.seed + given.seeds)
    context = get_context("spawn")
    with ProcessPoolExecutor(given.jobs, mp_context=context) as pool:
        each = (given.seconds, given.broken, WILD if given.wild else 0)
        options = ([option] * len(seeds) for option in each)
        for report in pool.map(run_seed, seeds, *options, chunksize=4):
            reports.append(report)
            if report.failure:
                failed.append(report)
                print(f"seed {report.seed}: {report.failure}", flush=True)
                how = f"--seconds {given.seconds:g}"
                how += f" --break {given.broken}" if given.broken else ""
                how += " --wild" if given.wild else ""
                print(f"  scripts/sim --seed {report.seed} --seeds 1 {how}", flush=True)
            elif len(reports) % 50 == 0:
                print(f"{len(reports)} of {len(seeds)} seeds", file=sys.stderr, flush=True)
    print(_summary(reports, failed, time.monotonic() - began))
    return 1 if failed else 0


def _dispatch(given: argparse.Namespace) -> int:
    logging.disable(logging.CRITICAL)  # All of it is meant to happen.
    began, failed, reports = time.monotonic(), 0, []
    seeds = range(given.seed, given.seed + given.seeds)
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        options = ([option] * len(seeds) for option in (given.seconds, given.broken))
        for report in pool.map(run_dispatch, seeds, *options, chunksize=4):
            reports.append(report)
            if report.failure:
                failed += 1
                print(f"seed {report.seed}: {report.failure}", flush=True)
                how = f"--seconds {given.seconds:g}"
                how += f" --break {given.broken}" if given.broken else ""
                print(f"  scripts/sim --tasks --seed {report.seed} --seeds 1 {how}", flush=True)
    tasks, attempts, faults, lost = (
        sum(getattr(report, what) for report in reports)
        for what in ("tasks", "attempts", "faults", "lost")
    )
    print(
        f"{len(reports)} seeds, {failed} failed; {tasks} tasks in {attempts} attempts, {faults} "
        f"faults, {lost} workers lost, {time.monotonic() - began:.0f} s"
    )
    return int(failed > 0)


def _summary(reports: list[Report], failed: list[Report], seconds: float) -> str:
    commits = sum(report.commits for report in reports)
    faults = sum(report.faults for report in reports)
    disturbed = sum(report.disturbed for report in reports)
    put_back = sum(report.put_back for report in reports)
    reads = sum(report.acknowledged for report in reports)
    return (
        f"{len(reports)} seeds, {len(failed)} failed; {commits} commands committed, {reads} "
        f"acknowledged, {faults} faults, {disturbed} messages disturbed, {put_back} old copies put "
        f"back, {seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
