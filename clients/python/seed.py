"""A master, a worker and a task over a file, by IPFS Kit's names; see docs/kit.md.

Run it with: python clients/python/seed.py [FILE]
"""

import time
from pathlib import Path

import click

from ipfs_cluster_node.kit import ipfs_kit

FILE = Path(__file__).parents[2] / "scripts/lib/data/weather.csv"
CLUSTER = {"cluster_name": "seed", "enable_cluster_management": True}


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path), default=FILE)
def main(file: Path) -> None:
    """Run both nodes until the task over FILE has ended."""
    with ipfs_kit(metadata={"role": "master", **CLUSTER}) as master:
        addresses = [master.node_address]
        with ipfs_kit(
            metadata={"role": "worker", "master_addresses": addresses, **CLUSTER}
        ) as worker:
            click.echo(f"nodes: {len(worker.get_cluster_status()['nodes'])}")
            cid = master.client.add_file(file).cid
            submitted = master.submit_cluster_task(
                task_type="data_processing",
                payload={"input_cid": cid, "parameters": {"alpha": 0.1}},
            )
            if not submitted["success"]:
                raise click.ClickException(submitted["error"])
            task = master.get_task_status(submitted["task_id"])
            while task["status"] in ("pending", "running"):
                time.sleep(0.2)
                task = master.get_task_status(submitted["task_id"])
            click.echo(f"task {task['task_id']}: {task['status']} on {task['node_id']}")
            for row in (task.get("result") or {}).get("rows") or []:
                click.echo(" ".join(map(str, row[:4])))


if __name__ == "__main__":
    main()
