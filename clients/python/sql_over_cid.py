"""Adds a file and runs SQL over it on the cluster of the default profile."""

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path

from ipfs_cluster_node.client.client import Client


async def main(path: Path, sql: str) -> None:
    """Print the rows as JSON."""
    async with Client.from_profile() as client:
        added = await client.add_content(path)
        task_id = await client.submit_task(
            "data_processing", {"sql": sql}, inputs=[("input", added.cid)]
        )
        status = (await client.wait_tasks([task_id], timeout=timedelta(minutes=10)))[task_id].status
        if status.result is None:
            sys.exit(f"failed: {status.failure.message if status.failure else status.state}")
        sys.stdout.write(json.dumps(json.loads(status.result.data or b""), indent=2) + "\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
