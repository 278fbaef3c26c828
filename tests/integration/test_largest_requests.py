"""Every RPC at its largest, two at once, on a cluster with many files and tasks: nobody notices.

The strict form, on an idle machine, is `scripts/bench largest`.
"""

import pytest

from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from tests.support.clusters import cluster_of
from tests.support.largest_requests import names
from tests.support.largest_run import elections, run_all

FILES, TASKS = 250_000, 100_000
GAP_SECONDS_MAX = 0.25
"""Of the leader's loop. On an idle machine less than 0.1 s; here other tests may run beside it."""
LOADED_MACHINE = 2.0
"""Times the gap of masters that only follow: what the machine does to any process on it."""


def test_every_method_has_a_largest_request() -> None:
    short = {method.rpartition(".")[2] for method in RULES_BY_METHOD}
    assert set(names()) == short
    assert len(list(names())) == len(short)


@pytest.mark.asyncio
async def test_the_largest_requests_leave_the_leader_its_turns() -> None:
    async with cluster_of(0, 0) as cluster:
        findings = await run_all(cluster, files=FILES, tasks=TASKS)
        report = "\n".join([*map(str, findings), *elections(cluster)])
    print(report)
    assert {each.term for each in findings} == {findings[0].term}, report
    assert not [each for each in findings if each.failed], report
    for each in findings:
        bound = max(GAP_SECONDS_MAX, LOADED_MACHINE * each.followers_gap_seconds)
        assert each.gap_seconds < bound, report
