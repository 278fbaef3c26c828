"""Addresses of a node that was made before: what the metadata change goes to its `config.toml`."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.config.files import read_regular, write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import (
    ProfileEndpoint,
    load_profile,
    profile_names,
    save_profile,
    updating_profiles,
)
from ipfs_cluster_node.config.settings import NodeSection, load_settings
from ipfs_cluster_node.config.units import toml_text
from ipfs_cluster_node.core.endpoints import Endpoint, parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.kit.wanted import NodeWanted

_SECTION: Final = re.compile(r"^\[node\][^\n]*\n", re.MULTILINE)

Written = str | tuple[str, ...]


def keep_addresses(home: Home, wanted: NodeWanted) -> None:
    """Write the addresses that the metadata name, if they are others, unless the node runs.

    Profiles of this user that name the node get its new address.

    Raises:
        ClusterError: CONFIG_INVALID for one that can't be; HOME_IN_USE.
    """
    settings = load_settings(home.config, environment={})
    changed = _changed(settings.node, wanted)
    if not changed:
        return
    now = replace(settings.node, **changed)  # type: ignore[arg-type]
    replace(settings, node=now)  # Checks them.
    with home.lock():
        text = read_regular(home.config).decode()
        edited = _edited(text, changed)
        document = tomllib.loads(text)
        document["node"] |= {k: v if isinstance(v, str) else list(v) for k, v in changed.items()}
        if _parsed(edited) != document:
            lines = ", ".join(f"{key} = {_literal(value)}" for key, value in changed.items())
            raise ClusterError(
                Reason.CONFIG_INVALID,
                f"the metadata name other addresses than {home.config}, which is not written as "
                f"the kit writes it; write {lines} to its [node] yourself",
            )
        write_private(home.config, edited.encode())
    _keep_in_profiles(Identity.load(home.identity).node_id, settings.node, now)


def _changed(node: NodeSection, wanted: NodeWanted) -> dict[str, Written]:
    """The settings that the metadata change."""
    changed: dict[str, Written] = {}
    if wanted.bind and parse_endpoint(wanted.bind) != parse_endpoint(node.bind):
        changed["bind"] = wanted.bind
    host, old = parse_endpoint(wanted.bind or node.bind).host, parse_endpoint(node.enrolment_bind)
    # It is at the host of `bind`, unless it was given.
    moves = host != old.host and old.host == parse_endpoint(node.bind).host
    enrolment = wanted.enrolment_bind or (str(Endpoint(host, old.port)) if moves else "")
    if enrolment and parse_endpoint(enrolment) != old:
        changed["enrolment_bind"] = enrolment
    if wanted.advertise and wanted.advertise != node.advertise:
        changed["advertise"] = wanted.advertise
    return changed


def _edited(text: str, changed: Mapping[str, Written]) -> str:
    """The file with these lines of `[node]`; the others, and the comments, stay."""
    start = _SECTION.search(text)
    if start is None:
        return text
    end = re.compile(r"^\[", re.MULTILINE).search(text, start.end())
    section = text[start.end() : end.start() if end else len(text)]
    for key, value in changed.items():
        line = f"{key} = {_literal(value)}"
        template = line.replace("\\", r"\\")
        section, count = re.subn(
            rf"^[ \t]*{key}[ \t]*=[^\n]*", template, section, flags=re.MULTILINE
        )
        section = section if count else f"{line}\n{section}"
    return text[: start.end()] + section + (text[end.start() :] if end else "")


def _parsed(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def _literal(value: Written) -> str:
    return toml_text(value) if isinstance(value, str) else f"[{', '.join(map(toml_text, value))}]"


def _keep_in_profiles(node_id: NodeId, old: NodeSection, new: NodeSection) -> None:
    before, after = ((each.advertise or (each.bind,)) for each in (old, new))
    with updating_profiles():
        for name in profile_names():
            profile = load_profile(name)
            named = [each for each in profile.endpoints if each.node_id == node_id]
            if {each.address for each in named} & set(before):
                at = profile.endpoints.index(named[0])
                others = [each for each in profile.endpoints if each.node_id != node_id]
                others[at:at] = [ProfileEndpoint(address, node_id) for address in after]
                save_profile(name, replace(profile, endpoints=tuple(others)))
