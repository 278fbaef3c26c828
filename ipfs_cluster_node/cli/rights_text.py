"""What somebody may do, in words, by the delegations that lead to it."""

from collections.abc import Iterable, Iterator
from typing import Any

from ipfs_cluster_node.cli.output import exact_time_text, hint
from ipfs_cluster_node.codec.ucan import TokenReader, open_envelope
from ipfs_cluster_node.core.denials import WORDS, Held, held_by
from ipfs_cluster_node.core.ucan.commands import TOP, Command, covers
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.profiles import PRODUCT
from ipfs_cluster_node.core.ucan.tokens import Delegation
from ipfs_cluster_node.core.views import CallerStatus, ListedDelegation


def rights_lines(caller: CallerStatus) -> Iterator[str]:
    """Who a caller is, and what it may do."""
    who = f"{caller.name}, a {caller.caller_class}" if caller.name else f"a {caller.caller_class}"
    yield f"You are {who}: {caller.did}"
    if caller.caller_class != "client":
        yield "What a node may do is in its role, not delegated."
        return
    said: dict[str, list[str]] = {}
    for each in _mine(caller):
        until = exact_time_text(each.expires_at_ms)
        by = "" if each.issuer == caller.cluster_did else f", as far as {each.issuer} may"
        phrase = f"{command_words(Command(each.command))}{_limits(_held(each))}"
        said.setdefault(f"You may, until {until}{by}:", []).append(phrase)
    for heading, phrases in said.items():
        yield heading
        yield from (f"  {phrase}" for phrase in dict.fromkeys(phrases))
    if not said:
        yield "You may do nothing yet; ask an operator for `token delegate`, with your name or DID."


def command_words(command: Command) -> str:
    """What a command lets one do: `cancel, read and submit tasks`."""
    if command == TOP:
        return "do everything"
    verbs: dict[str, list[str]] = {}
    for each, (verb, thing) in WORDS.items():
        if covers(command, each):
            verbs.setdefault(thing, []).append(verb)
    return "; ".join(f"{_and(each)} {thing}" for thing, each in verbs.items()) or f"use {command}"


def held_under(caller: CallerStatus, command: Command) -> Held | None:
    """What a caller may do under a command; None if nothing."""
    chains = [
        [delegation]
        for each in _mine(caller)
        if covers(Command(each.command), command) and (delegation := _decoded(each)) is not None
    ]
    return held_by(command, chains) if chains else None


async def say_if_limited(client: Any, found: Any, command: Command) -> None:
    """Say after an empty list that it shows only what the caller may read, if that is limited."""
    if found:
        return
    held = held_under(await client.get_caller(), command)
    if held is not None and (held.namespaces or held.limited):
        thing = WORDS[command][1]
        hint(f"you see only {thing} that you may {WORDS[command][0]}:{_limits(held)}")


def _mine(caller: CallerStatus) -> list[ListedDelegation]:
    mine = (each for each in caller.delegations if each.audience == caller.did)
    return [each for each in mine if not each.revoker_dids]


def _held(listed: ListedDelegation) -> Held:
    delegation = _decoded(listed)
    command = Command(listed.command)
    return held_by(command, [[delegation]]) if delegation else Held(command, limited=True)


def _decoded(listed: ListedDelegation) -> Delegation | None:
    try:
        envelope = open_envelope(listed.token, profile=PRODUCT)
        return TokenReader(PRODUCT).delegation(envelope)
    except UcanError:
        return None


def _limits(held: Held) -> str:
    within = f" in {_and(held.namespaces)}" if held.namespaces else ""
    return f"{within}{' within further conditions (see -v)' if held.limited else ''}"


def _and(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
