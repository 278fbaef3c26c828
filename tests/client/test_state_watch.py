"""A watch of the state at a master that is not to be trusted."""

from typing import Any

import pytest

from ipfs_cluster_node.cli.capture import CapturingConnection
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.state_events import Bookmark, Reset, ResetCause, StateEvent


async def revisions_of(monkeypatch: pytest.MonkeyPatch, *batches: list[StateEvent]) -> list[int]:
    async def answered(*_args: Any) -> Any:
        for batch in batches:
            yield batch
        raise ClusterError(Reason.NOT_DELEGATED, "the end")

    connection = CapturingConnection()
    connection.learn([("master:1", None)])
    client = Client(connection)
    monkeypatch.setattr(client, "_batches", answered)
    events = list[StateEvent]()
    with pytest.raises(ClusterError) as ended:
        async for event in client.watch_state("config"):
            events.append(event)
    seen = [event.revision for event in events if isinstance(event, Bookmark)]
    assert ended.value.reason in (Reason.NOT_DELEGATED, Reason.BLOCK_MISMATCH)
    return [*seen, -1] if ended.value.reason is Reason.BLOCK_MISMATCH else seen


def mark(revision: int) -> Bookmark:
    return Bookmark(revision, b"token", 0)


@pytest.mark.asyncio
async def test_revisions_only_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await revisions_of(monkeypatch, [mark(5)], [mark(5)], [mark(7)]) == [5, 5, 7]
    assert await revisions_of(monkeypatch, [mark(5)], [mark(4)], [mark(6)]) == [5, -1]
    compacted = Reset(ResetCause.COMPACTED, 0)
    assert await revisions_of(monkeypatch, [mark(5)], [compacted, mark(4)]) == [5, -1]
    other = Reset(ResetCause.OTHER_CLUSTER, 0)
    assert await revisions_of(monkeypatch, [mark(5)], [other, mark(4)]) == [5, 4]
