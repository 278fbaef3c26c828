"""Every fault, one after the other, a line each."""

import json
import subprocess
import sys
import time
from typing import Any, Final

from scripts.lib.fault.scenarios import SCENARIOS

DONE: Final = "ok  "
SKIPPED: Final = "skip"
FAILED: Final = "FAIL"
BESIDE_SECONDS_MAX: Final = 150.0
"""What a run may take besides breaking things: to start, to settle, to compare, to check."""


def run_all(seconds: float, seed: int) -> int:
    """Run every fault in a process of its own; returns 1 if one failed, else 0."""
    began = time.monotonic()
    came: dict[str, list[str]] = {DONE: [], SKIPPED: [], FAILED: []}
    for name in SCENARIOS:
        came[_run_one(name, seconds, seed)].append(name)
    counts = ", ".join(f"{len(names)} {how.strip()}" for how, names in came.items())
    print(f"faults in {time.monotonic() - began:.0f} s: {counts} {' '.join(came[FAILED])}")
    return 1 if came[FAILED] else 0


def _run_one(name: str, seconds: float, seed: int) -> str:
    began = time.monotonic()
    options = ("--seconds", f"{seconds:g}", "--seed", str(seed))
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.lib.fault", name, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said, complained = process.communicate(timeout=seconds + BESIDE_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.terminate()  # It ends its nodes.
        said, complained = process.communicate()
    last = said.strip().rpartition("\n")[2]
    how = FAILED if process.returncode else SKIPPED if last.startswith("skipped") else DONE
    print(f"{how} {name} ({time.monotonic() - began:.0f} s) {_words(last)}", flush=True)
    if how == FAILED:
        print(complained.strip() or "it took too long", flush=True)
    return how


def _words(last: str) -> str:
    if not last.startswith("{"):
        return last
    report: dict[str, Any] = json.loads(last)
    words = (
        f"{report['faults']} faults, {report['acknowledged_writes']} writes, "
        f"{report['calls']} calls, longest gap {report['gap_longest_s']:g} s, "
        f"{report['elections']} elections"
    )
    return "; ".join([words, *report["notes"]])
