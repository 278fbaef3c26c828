"""Files that are removed and kept, on a cluster of processes."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import ClusterError, Reason

SOON = timedelta(seconds=30)


async def read(client: Client, cid: str) -> bytes:
    return b"".join([data async for data in client.get_content(cid)])


@pytest.mark.asyncio
async def test_a_file_is_removed_once_no_task_needs_it_and_may_be_added_again(
    client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "removed.bin"
    path.write_bytes(data := os.urandom(700_000))
    added = await client.add_content(path)
    endless = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"
    task_id = await client.submit_task(
        "data_processing", {"sql": endless}, inputs=[("t", added.cid)]
    )
    assert (await client.stat_content(added.cid)).needed_by == task_id
    with pytest.raises(ClusterError, match=task_id) as refused:
        await client.remove_content(added.cid)
    assert refused.value.reason is Reason.CONTENT_NEEDED
    await client.cancel_task(task_id)
    await client.wait_tasks([task_id], timeout=SOON)
    removed = await client.remove_content(added.cid)
    assert removed.size_bytes == len(data)
    assert removed.freed_bytes is not None
    assert removed.freed_bytes >= len(data)
    assert set(removed.soon_node_ids) < set(added.holders)
    assert removed.later_node_ids == ()
    with pytest.raises(ClusterError) as gone:
        await client.stat_content(added.cid)
    assert gone.value.reason is Reason.CONTENT_NOT_FOUND
    assert (await client.add_content(path)).cid == added.cid
    assert await read(client, added.cid) == data
    await client.remove_content(added.cid)


@pytest.mark.asyncio
async def test_a_result_is_kept_from_the_start_if_its_task_was_submitted_so(
    client: Client,
) -> None:
    task = await client.submit_task("echo", os.urandom(200_000), keep_result=True)
    ended = await task.wait(timeout=SOON)
    assert ended.spec.keep_result
    assert ended.status.result is not None
    file = await client.stat_content(ended.status.result.cid)
    assert (file.goes_with, file.namespaces) == ("", ("default",))
    await client.remove_content(file.cid)


@pytest.mark.asyncio
async def test_a_result_goes_with_its_task_until_it_is_kept(client: Client) -> None:
    task_id = await client.submit_task("echo", os.urandom(200_000))
    ended = (await client.wait_tasks([task_id], timeout=SOON))[task_id]
    assert ended.status.result is not None
    cid = ended.status.result.cid
    assert (await client.stat_content(cid)).goes_with == task_id
    await client.keep_content(cid)
    assert (await client.stat_content(cid)).goes_with == ""
    await client.remove_content(cid)
