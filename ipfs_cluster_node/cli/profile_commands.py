"""`profile`: this user's clusters, and the identity in each."""

from typing import Any

import click

from ipfs_cluster_node.cli.completing import completed_profiles
from ipfs_cluster_node.cli.groups import Group
from ipfs_cluster_node.cli.output import (
    client_command,
    local_command,
    print_done,
    print_json,
    print_table,
    say,
)
from ipfs_cluster_node.config.files import read_regular
from ipfs_cluster_node.config.profiles import (
    chosen_profile,
    load_profile,
    profile_names,
    use_profile,
)
from ipfs_cluster_node.core.errors import ClusterError


@click.group(cls=Group)
def profile() -> None:
    """Your clusters and your identity in each, from profiles.toml; makes no call."""


@profile.command("list")
@client_command
def list_profiles(chosen: str | None, *, as_json: bool) -> None:
    """List the profiles; a star marks the one in use."""
    used = chosen_profile(chosen)
    found = [_described(name, used) for name in profile_names()]
    if as_json:
        print_json(found)
        return
    rows = (
        ("*" if each["used"] else "", each["name"], each["did"], each["error"] or each["until"])
        for each in found
    )
    print_table("Profiles", ("", "name", "identity", "certificate until"), rows)


@profile.command("use")
@click.argument("name", shell_complete=completed_profiles)
@local_command
def use(name: str, *, as_json: bool) -> None:
    """Use NAME by default, unless --profile or the environment names another."""
    use_profile(name)
    print_done({"name": name}, f"{name} is now the default", as_json)


@profile.command("show")
@click.argument("name", required=False, shell_complete=completed_profiles)
@client_command
def show(chosen: str | None, name: str | None, *, as_json: bool) -> None:
    """Show profile NAME, or the one in use: its masters, files and identity."""
    used = chosen_profile(chosen)
    name = name or used
    load_profile(name)  # A profile that does not exist is an error, not a damaged one.
    found = _described(name, used)
    if as_json:
        print_json(found)
        return
    for key in ("name", "did", "until", "error", "ca", "certificate", "key"):
        if found[key]:
            say(f"{key}: {found[key]}")
    for endpoint in found["endpoints"]:
        say(f"master: {endpoint['address']} {endpoint['node_id']}")


def _described(name: str, used: str) -> dict[str, Any]:
    from ipfs_cluster_node.adapters.keys.certificates import read_certificate

    document: dict[str, Any] = dict.fromkeys(("did", "until", "ca", "certificate", "key"), "")
    document |= {"name": name, "used": name == used, "error": "", "endpoints": []}
    try:
        kept = load_profile(name)
        document |= {key: str(getattr(kept, key)) for key in ("ca", "certificate", "key")}
        document["endpoints"] = [
            {"address": each.address, "node_id": each.node_id} for each in kept.endpoints
        ]
        certificate = read_certificate(read_regular(kept.certificate))
        document |= {"did": certificate.did, "until": f"{certificate.not_after:%FT%TZ}"}
    except (ClusterError, OSError) as error:
        document["error"] = str(error)
    return document
