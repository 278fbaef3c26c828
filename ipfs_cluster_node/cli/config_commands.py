"""`config`: the cluster's settings, their changes and versions."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from difflib import get_close_matches
from typing import Any, Final

import click

from ipfs_cluster_node.cli.completing import completed_config_versions, completed_settings
from ipfs_cluster_node.cli.groups import Group
from ipfs_cluster_node.cli.output import (
    NOTHING,
    client_command,
    counted,
    hint,
    json_document,
    print_done,
    print_json,
    print_table,
    print_views,
    run_client,
    say,
    time_text,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.settings import SETTINGS, stored_values

CHANGED, UNCHANGED = "~", "="
SHOWN_CHANGES_MAX = 4
"""Changes of a version that a line of the history names."""


@click.group(cls=Group)
def config() -> None:
    """The cluster's settings, replicated among the masters.

    Keys that begin with `user.` are your own: the cluster ignores them.
    """


@config.command("get")
@click.argument("key", default="", shell_complete=completed_settings)
@client_command
def get_config(profile: str | None, key: str, *, as_json: bool) -> None:
    """List the settings, or print the value of one."""
    entries = run_client(profile, lambda client: client.get_config(key))
    if key and not entries:
        others = run_client(profile, lambda client: client.get_config())
        raise _no_setting(f"{key!r} that you may see", key, [each.key for each in others])
    if as_json:
        print_json({entry.key: entry.value for entry in entries})
    elif key:
        say(entries[0].value)
    else:
        print_table(
            "Settings",
            ("key", "value", "default", "from", "to", "what it does"),
            (
                (
                    each.key,
                    each.value,
                    each.default_value or NOTHING,
                    each.minimum_value or NOTHING,
                    each.maximum_value or NOTHING,
                    each.description,
                )
                for each in entries
            ),
        )


_DASHES: Final = {"ignore_unknown_options": True}
"""A value may begin with a dash, as -5 does. A misspelt option is refused as an unknown key."""
_pairs = click.argument(
    "pairs",
    metavar="KEY VALUE [KEY VALUE]...",
    nargs=-1,
    required=True,
    shell_complete=completed_settings,
)
_if = click.option(
    "--if",
    "expected",
    metavar="KEY=VALUE",
    multiple=True,
    help="Only if this is the current value of KEY; empty if it is not set. Repeatable.",
)
_if_value = click.option("--if-value", help="Only if this is the current value; for one key.")


@config.command("set", context_settings=_DASHES)
@_pairs
@_if
@_if_value
@client_command
def propose_config(
    profile: str | None,
    pairs: tuple[str, ...],
    *,
    expected: tuple[str, ...],
    if_value: str | None,
    as_json: bool,
) -> None:
    """Change settings, or keys of your own, `user.…`; returns once they are committed.

    Several change together or not at all. An empty value removes a key of your own, and returns a
    setting of the cluster to its default. Durations: 500ms, 5s, 1h30m, 2w; sizes: 256MiB.
    """
    values, if_values = _proposal(pairs, expected, if_value)
    run_client(profile, lambda client: client.propose_config(values, if_values=if_values))
    stored = stored_values(values)
    print_done(stored, [_set(key, value) for key, value in stored.items()], as_json)


@config.command("plan", context_settings=_DASHES)
@_pairs
@_if
@_if_value
@client_command
def plan_config(
    profile: str | None,
    pairs: tuple[str, ...],
    *,
    expected: tuple[str, ...],
    if_value: str | None,
    as_json: bool,
) -> None:
    """Show what `config set` of the same would do, and change nothing.

    It is refused where that would be. `~` comes before what would change, `=` before the rest.
    """
    values, if_values = _proposal(pairs, expected, if_value)
    planned = run_client(profile, lambda client: client.plan_config(values, if_values=if_values))
    _print_plan(planned, as_json=as_json)


@config.command("history")
@click.argument(
    "version", type=click.IntRange(1), required=False, shell_complete=completed_config_versions
)
@click.option("--key", default="", shell_complete=completed_settings, help="Only changes of KEY.")
@click.option("--limit", type=click.IntRange(1), help="Only the newest so many.")
@client_command
def list_config_versions(
    profile: str | None, version: int | None, *, key: str, limit: int | None, as_json: bool
) -> None:
    """List who changed which settings when, the newest first; or show all of one VERSION.

    The newest 1,000 versions are kept.
    """
    versions = run_client(
        profile,
        lambda client: client.list_config_versions(key=key, version=version or 0, limit=limit),
    )
    if version is not None and not versions:
        raise ClusterError(
            Reason.VERSION_NOT_FOUND,
            f"there is no version {version} that you may see; list them with `config history`",
        )
    if version is not None and not as_json:
        _print_version(versions[0])
        return
    print_views(
        versions,
        as_json,
        "Versions",
        ("version", "time", "by", "changes"),
        lambda each: (
            each.version,
            time_text(each.proposed_at_ms),
            each.proposer_name or each.proposer_did,
            _summary(each.changes),
        ),
    )


@config.command("revert")
@click.argument("version", type=click.IntRange(0), shell_complete=completed_config_versions)
@click.option("--plan", "only_plan", is_flag=True, help="Show what would change; change nothing.")
@client_command
def revert_config(profile: str | None, version: int, *, only_plan: bool, as_json: bool) -> None:
    """Bring back all settings as they were right after VERSION, of `config history`.

    0 is before the first one. It is a change like any other, with a version of its own, so it can
    be reverted too. It is refused if a setting changes meanwhile.
    """
    if only_plan:
        planned = run_client(profile, lambda client: client.plan_revert(version))
    else:
        planned = run_client(profile, lambda client: client.revert_config(version))
    _print_plan(planned, as_json=as_json)
    if not planned:
        hint(f"nothing to change: the settings are as they were after version {version}")


@config.command("watch")
@click.argument("key", default="", shell_complete=completed_settings)
@client_command
def watch_config(profile: str | None, key: str, *, as_json: bool) -> None:
    """Print changes as they are committed, until interrupted; of KEY alone, or those below it.

    With --json each line is a version, as `config history --json` lists them.
    """
    of_own = key.startswith("user.") or "user.".startswith(key)
    if not (of_own or any(each == key or each.startswith(f"{key}.") for each in SETTINGS)):
        raise _no_setting(repr(key), key, SETTINGS)

    async def watch(client: Any) -> None:
        async with aclosing(client.watch_config(key)) as versions:
            async for version in versions:
                if as_json:
                    print_json(json_document(version))
                else:
                    _print_version(version)

    run_client(profile, watch)


def _proposal(
    pairs: Sequence[str], expected: Iterable[str], if_value: str | None
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The values to set, and those that are expected."""
    keys, values = pairs[::2], pairs[1::2]
    if len(keys) != len(values):
        key, equals, value = keys[-1].partition("=")
        meant = f"; write `{key} {value}`" if equals else ""
        raise click.UsageError(f"{keys[-1]} has no value{meant}")
    if len(set(keys)) != len(keys):
        raise click.UsageError("a key is named twice")
    if if_value is not None and len(keys) != 1:
        raise click.UsageError("--if-value goes with one key; with several use --if KEY=VALUE")
    if_values = {} if if_value is None else {keys[0]: if_value}
    for each in expected:
        key, equals, value = each.partition("=")
        if not (key and equals):
            raise click.UsageError(f"--if takes KEY=VALUE, not {each!r}")
        if if_values.setdefault(key, value) != value:
            raise click.UsageError(f"two values are expected of {key}")
    return dict(zip(keys, values, strict=True)), if_values


def _no_setting(what: str, key: str, known: Iterable[str]) -> ClusterError:
    near = get_close_matches(key, list(known), n=1)
    meant = f"did you mean {near[0]}?" if near else "list them with `config get`"
    return ClusterError(Reason.SETTING_NOT_FOUND, f"there is no setting {what}; {meant}")


def _set(key: str, value: str) -> str:
    if value:
        return f"{key} = {value}"
    setting = SETTINGS.get(key)
    return f"{key} is not set" if setting is None else f"{key} = {setting.default} (default)"


def _print_plan(planned: Sequence[Any], *, as_json: bool) -> None:
    if as_json:
        print_json([json_document(each) for each in planned])
        return
    say(*map(_planned, planned))
    changes = sum(each.changes for each in planned)
    if planned:
        hint(f"{counted(changes, 'change')}, {counted(len(planned) - changes, 'key')} as before")


def _planned(each: Any) -> str:
    mark = CHANGED if each.changes else UNCHANGED
    return f"{mark} {each.key}: {_or_nothing(each.value)} -> {_new(each)}"


def _new(each: Any) -> str:
    if each.new_value:
        return str(each.new_value)
    return f"{each.default_value} (default)" if each.default_value else "removed"


def _or_nothing(value: str) -> str:
    return value or NOTHING


def _summary(changes: Sequence[Any]) -> str:
    shown = [f"{c.key}={c.new_value or NOTHING}" for c in changes[:SHOWN_CHANGES_MAX]]
    more = len(changes) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _print_version(version: Any) -> None:
    by = f"{version.proposer_name} ({version.proposer_did})"
    who = by if version.proposer_name else version.proposer_did
    say(
        f"version {version.version}  {time_text(version.proposed_at_ms)} UTC  {who}",
        *(
            f"  {each.key}: {_or_nothing(each.old_value)} -> {_or_nothing(each.new_value)}"
            for each in version.changes
        ),
    )
