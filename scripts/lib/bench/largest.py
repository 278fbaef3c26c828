"""Every RPC at its largest, two at once, on a cluster with 250,000 files and 100,000 tasks.

`largest-gap` is the longest time that the leader's loop stood still, by its own gauge; a leader
that changed, or a call that a legal request must not be answered with, is a failure.
"""

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from scripts.lib.bench.common import line, note, options
from tests.support.largest_run import run_all

FILES: Final = 250_000
TASKS: Final = 100_000
GAP_SECONDS_MAX: Final = 0.1


async def run(given: Any) -> int:
    """Measure; returns 1 where the limit is passed."""
    share = 0.1 if given.quick else 1.0
    root = Path(tempfile.mkdtemp(prefix="bench-largest-"))
    cluster = LocalCluster(root)
    try:
        findings = await run_all(cluster, files=int(FILES * share), tasks=int(TASKS * share))
    finally:
        await cluster.stop()
        shutil.rmtree(root, ignore_errors=True)
    for finding in findings:
        note(str(finding))
    gap = max(finding.gap_seconds for finding in findings)
    kept = len({finding.term for finding in findings}) == 1
    failed = [finding for finding in findings if finding.failed]
    line(
        given,
        bench="largest-gap",
        ours=gap,
        unit="s",
        limit=GAP_SECONDS_MAX,
        leader_kept=kept,
        failed=len(failed),
    )
    return int(gap > GAP_SECONDS_MAX or not kept or bool(failed))


if __name__ == "__main__":
    sys.exit(asyncio.run(run(options(__doc__ or ""))))
