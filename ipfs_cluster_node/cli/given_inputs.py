"""Inputs on a command line: NAME=FILE or NAME=CID."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from ipfs_cluster_node.cli.output import progress_bar
from ipfs_cluster_node.cli.waiting import saying_why_it_waits
from ipfs_cluster_node.client.inputs import GivenInput, NamedCid, add_input, given_inputs
from ipfs_cluster_node.core.errors import ClusterError, Reason


def parse_inputs(texts: Iterable[str]) -> list[GivenInput]:
    """Check inputs before anything is done with them.

    Raises:
        ClusterError: INVALID_ARGUMENT.
    """
    pairs = []
    for text in texts:
        name, separator, source = text.partition("=")
        if not separator or not source:
            raise ClusterError(
                Reason.INVALID_ARGUMENT, f"{text!r} is not an input; write NAME=FILE or NAME=CID"
            )
        pairs.append((name, source))
    return given_inputs(pairs)


async def add_inputs(client: Any, given: Sequence[GivenInput], *, namespace: str) -> list[NamedCid]:
    """Add the local files among a task's inputs in its namespace.

    Each with a progress bar on a terminal.
    """
    named = []
    for each in given:
        size = None
        if each.path is not None:
            size = (await asyncio.to_thread(each.path.stat)).st_size
        if each.cid:
            named.append(await add_input(client, each, namespace=namespace))
            continue
        with progress_bar(f"add {each.name}", size) as on_progress:
            async with saying_why_it_waits(client):
                named.append(
                    await add_input(client, each, namespace=namespace, on_progress=on_progress)
                )
    return named
