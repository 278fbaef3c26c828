"""A file for which the leader has no space: others get it whole, or not at all."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from ipfs_cluster_node.cluster.content import passing_on
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.held_blocks import NAMED_SECONDS_MAX
from tests.content.test_collector import HERE, THERE, Here
from tests.support.content import build, content, stream
from tests.support.virtual_time import virtual_time

DATA = content(3 * 2**20)


class Far:
    """What reached the other masters, which may refuse after some blocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came: list[list[bytes]] = []
        self.refuses_after = {0: 10**9, 1: 10**9}
        monkeypatch.setattr(passing_on, "send_all", self._take)
        monkeypatch.setattr(passing_on, "BlockServiceStub", lambda channel: channel)

    def PutBlocks(self, timeout: float) -> int:
        self.came.append([])
        return len(self.came) - 1

    async def _take(self, end: int, requests: AsyncIterator[Any]) -> None:
        async for request in requests:
            if len(self.came[end]) >= self.refuses_after[end]:
                raise ClusterError(Reason.STORAGE_FULL, "full there")
            self.came[end].append(request.cid)

    async def pass_on(self, chunks: AsyncIterator[bytes]) -> Any:
        channels = cast("Any", [self, self])
        async with asyncio.timeout(10):
            return await passing_on.pass_on(chunks, channels, seconds_max=5)


@pytest.mark.asyncio
async def test_both_get_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Far(monkeypatch)
    report = await far.pass_on(stream(DATA))
    assert report.size_bytes == len(DATA)
    assert far.came[0] == far.came[1]
    assert far.came[0][-1] == report.cid.binary


@pytest.mark.asyncio
@pytest.mark.parametrize("after", [0, 3])
async def test_one_that_refuses_ends_it_and_is_told(
    monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    far = Far(monkeypatch)
    far.refuses_after[1] = after
    with pytest.raises(ClusterError) as caught:
        await far.pass_on(stream(content(12 * 2**20)))  # More than may wait for one of them.
    assert caught.value.reason is Reason.HOLDERS_MISSING
    assert "full there" in caught.value.message


@pytest.mark.asyncio
async def test_what_is_wrong_with_the_upload_is_told_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def wrong() -> AsyncIterator[bytes]:
        yield DATA
        raise ClusterError(Reason.PAYLOAD_TOO_LARGE, "too large")

    with pytest.raises(ClusterError) as caught:
        await Far(monkeypatch).pass_on(wrong())
    assert caught.value.reason is Reason.PAYLOAD_TOO_LARGE


@virtual_time
@pytest.mark.parametrize("apart_s", [NAMED_SECONDS_MAX - 10, NAMED_SECONDS_MAX + 10])
async def test_what_one_took_long_after_the_other_is_not_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apart_s: float
) -> None:
    """The first keeps it for a while only: named later, the file may be on one master, or none."""
    far, here, time = Far(monkeypatch), Here(tmp_path), asyncio.get_running_loop().time
    take = far._take

    async def taken(end: int, requests: AsyncIterator[Any]) -> None:
        await take(end, requests)
        await asyncio.sleep(end * apart_s)

    monkeypatch.setattr(passing_on, "send_all", taken)
    monkeypatch.setattr(here.contents, "_instead_of_here", lambda _size: (HERE, THERE))
    monkeypatch.setattr(here.contents, "_channel_to", lambda _node: far)
    proposed_at: list[float] = []

    async def stuck(_body: Any) -> None:
        proposed_at.append(time())
        await asyncio.sleep(10 * NAMED_SECONDS_MAX)

    here.master.before_commit = stuck
    began = time()
    with pytest.raises(ClusterError) as caught:
        await here.add(DATA)
    if apart_s > NAMED_SECONDS_MAX:
        assert caught.value.reason is Reason.HOLDERS_MISSING
        assert proposed_at == []
    else:
        assert caught.value.reason is Reason.UNKNOWN_OUTCOME
        assert time() == pytest.approx(began + NAMED_SECONDS_MAX)
    assert here.master.state().contents.get(str(build(DATA)[0])) is None
    await here.stop()
