"""Before a master goes on alone it calls the others: a cluster with a leader is not lost."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.disaster import alone
from ipfs_cluster_node.disaster.alone import FOLLOWED_SECONDS, Survivor
from ipfs_cluster_node.node.health_calls import Heard
from tests.support.survivors import home_of_three
from tests.support.virtual_time import monotonic, virtual_time


class Others:
    """The other masters; each time they are asked they name the next of these leaders."""

    def __init__(self, patch: pytest.MonkeyPatch, survivor: Survivor, *named: list[str]) -> None:
        self.named, self.asked = list(named), list[float]()
        self._survivor = survivor
        patch.setattr(alone, "masters_that_run", self._ask)
        patch.setattr(alone, "load_files", lambda _home: SimpleNamespace(tls=None))

    async def _ask(self, masters: Any, _tls: Any) -> list[Heard]:
        assert tuple(masters) == self._survivor.others
        self.asked.append(monotonic())
        leaders = self.named.pop(0) if len(self.named) > 1 else self.named[0]
        return [Heard(m, leader) for m, leader in zip(masters, leaders, strict=False)]


@virtual_time
async def test_where_nobody_is_left_or_knows_a_leader_it_may_go_on(tmp_path: Path) -> None:
    survivor = Survivor(home_of_three(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        others = Others(patch, survivor, [])
        assert await survivor.check_others() == []
        assert len(others.asked) == 1
        others = Others(patch, survivor, [""])
        # It runs all the same, and is told of: its log may have more.
        assert await survivor.check_others() == [survivor.others[0]]
        assert len(others.asked) == 1


@virtual_time
@pytest.mark.parametrize("leaders", [["other-1"], ["", "other-1"]])
async def test_where_one_leads_the_cluster_is_not_lost(tmp_path: Path, leaders: list[str]) -> None:
    survivor = Survivor(home_of_three(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        others = Others(patch, survivor, leaders)
        with pytest.raises(ClusterError) as caught:
            await survivor.check_others()
        assert caught.value.reason is Reason.INVALID_ARGUMENT
        assert "start this master with `serve`" in caught.value.message
        assert len(others.asked) == 1


@virtual_time
async def test_who_takes_this_stopped_master_for_its_leader_is_asked_again(
    tmp_path: Path,
) -> None:
    """It led until just now: the others will notice soon."""
    survivor = Survivor(home_of_three(tmp_path))
    own = str(survivor.node_id)
    with pytest.MonkeyPatch.context() as patch:
        others = Others(patch, survivor, [own, own], ["", own], ["", ""])
        assert len(await survivor.check_others()) == 2
        first, second, third = others.asked
        assert second - first == pytest.approx(FOLLOWED_SECONDS, abs=1e-3)
        assert third - second == pytest.approx(FOLLOWED_SECONDS, abs=1e-3)
        # One that says so for longer is told that another process has this identity.
        others = Others(patch, survivor, [own])
        with pytest.raises(ClusterError, match="not lost"):
            await survivor.check_others()
        assert len(others.asked) == 3
        # Another leader is elected meanwhile.
        Others(patch, survivor, [own, own], ["other-1", "other-1"])
        with pytest.raises(ClusterError, match="other-1 leads"):
            await survivor.check_others()
