"""What a shell completes: names and ids that the cluster knows, within a bounded time.

Nothing is printed and nothing fails: where the cluster does not answer, nothing is completed.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from ipfs_cluster_node.config.profiles import profile_names
from ipfs_cluster_node.core.ids import NAME_PATTERN

COMPLETE_SECONDS_MAX: Final = 1.0
"""For connecting and for all calls of one completion together."""
COMPLETED_MAX: Final = 100
"""Most values that one completion offers, and most rows of a list that it asks for."""

Item = CompletionItem[str]
Complete = Callable[[click.Context, click.Parameter, str], list[Item]]
Fetch = Callable[[Any, str], Awaitable[Iterable[Item]]]


def completed_profiles(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[Item]:
    """The profiles of this user; no call is made."""
    with suppress(Exception):  # A damaged file: the command itself reports it.
        return _beginning(map(CompletionItem, profile_names()), begun)
    return []


def completing(fetch: Fetch) -> Complete:
    """What completes a parameter by what `fetch` gets with a client."""

    def complete(ctx: click.Context, _param: click.Parameter, begun: str) -> list[Item]:
        if begun and not NAME_PATTERN.fullmatch(begun):
            return []
        os.environ["GRPC_VERBOSITY"] = "NONE"
        with _without_logging(), suppress(Exception):
            import asyncio

            found = asyncio.run(_fetched(fetch, ctx.find_root().params.get("profile"), begun))
            return _beginning(found, begun)
        return []

    return complete


@contextmanager
def _without_logging() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


async def _fetched(fetch: Fetch, profile: str | None, begun: str) -> Sequence[Item]:
    import asyncio

    from ipfs_cluster_node.client.client import Client

    found: Sequence[Item] = ()
    with suppress(TimeoutError):
        async with asyncio.timeout(COMPLETE_SECONDS_MAX):
            # Any master will do, and nothing else is done meanwhile: no certificate is renewed.
            client = Client.from_profile(profile, stale=True)
            client.certificate = None
            try:
                found = tuple(await fetch(client, begun))
            finally:
                await client.close()
    return found


def _beginning(items: Iterable[Item], begun: str) -> list[Item]:
    found = {item.value: item for item in items if item.value.startswith(begun)}
    return list(found.values())[:COMPLETED_MAX]


async def _nodes(client: Any, begun: str) -> list[Item]:
    nodes = await client.list_nodes()
    items = [CompletionItem(node.name, help=f"{node.role}, {node.liveness}") for node in nodes]
    if begun:  # Otherwise the ids, with their common beginning, would hide the names.
        items += [CompletionItem(node.node_id, help=node.name) for node in nodes]
    return items


async def _members(client: Any, begun: str) -> list[Item]:
    certificates = await client.list_certificates(limit=COMPLETED_MAX)
    clients = [CompletionItem(c.name, help=c.did) for c in certificates if not c.revoked]
    return [*await _nodes(client, begun), *clients]


async def _tasks(client: Any, begun: str, states: Iterable[Any] = ()) -> list[Item]:
    tasks = await client.list_tasks(states=states, task_id_prefix=begun, limit=COMPLETED_MAX)
    return [
        CompletionItem(task.task_id, help=f"{task.spec.task_type}, {task.status.state}")
        for task in tasks
    ]


async def _tasks_that_go_on(client: Any, begun: str) -> list[Item]:
    from ipfs_cluster_node.core.model import TaskState  # `--help` needs none.

    return await _tasks(client, begun, [state for state in TaskState if not state.is_terminal])


async def _task_types(client: Any, _begun: str) -> list[Item]:
    nodes = await client.list_nodes()
    return [CompletionItem(each) for each in sorted({t for n in nodes for t in n.task_types})]


async def _cids(client: Any, begun: str) -> list[Item]:
    found = await client.list_content(cid_prefix=begun, limit=COMPLETED_MAX)
    return [CompletionItem(each.cid, help=each.name) for each in found]


async def _delegations(client: Any, begun: str) -> list[Item]:
    found = await client.list_delegations(cid_prefix=begun, limit=COMPLETED_MAX)
    return [CompletionItem(d.cid, help=f"{d.command} to {d.audience}") for d in found]


async def _delegations_and_join_tokens(client: Any, begun: str) -> list[Item]:
    tokens = await client.list_join_tokens()
    join_tokens = [CompletionItem(each.token_id, help=f"for a {each.role}") for each in tokens]
    return [*join_tokens, *await _delegations(client, begun)]


async def _serials(client: Any, begun: str) -> list[Item]:
    found = await client.list_certificates(serial_prefix=begun, limit=COMPLETED_MAX)
    return [CompletionItem(each.serial, help=each.name) for each in found]


async def _joiners(client: Any, _begun: str) -> list[Item]:
    joiners = await client.list_joiners()
    return [CompletionItem(each.node_id, help=f"says it is {each.name}") for each in joiners]


async def _settings(client: Any, _begun: str) -> list[Item]:
    return [CompletionItem(each.key, help=each.value) for each in await client.get_config()]


async def _config_versions(client: Any, _begun: str) -> list[Item]:
    found = await client.list_config_versions(limit=COMPLETED_MAX)
    return [
        CompletionItem(str(v.version), help=" ".join(change.key for change in v.changes[:4]))
        for v in found
    ]


completed_nodes: Final = completing(_nodes)
completed_members: Final = completing(_members)
completed_joiners: Final = completing(_joiners)
completed_tasks: Final = completing(_tasks)
completed_tasks_that_go_on: Final = completing(_tasks_that_go_on)
completed_task_types: Final = completing(_task_types)
completed_cids: Final = completing(_cids)
completed_delegations: Final = completing(_delegations)
completed_tokens: Final = completing(_delegations_and_join_tokens)
completed_serials: Final = completing(_serials)
completed_settings: Final = completing(_settings)
completed_config_versions: Final = completing(_config_versions)
