"""A file for which the leader has no space: others get it whole, or not at all."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from ipfs_cluster_node.cluster.content import passing_on
from ipfs_cluster_node.core.errors import ClusterError, Reason
from tests.support.content import content, stream

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
