"""Client profiles: which cluster to talk to, and as whom."""

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipfs_cluster_node.config.files import make_private_directory, write_private
from ipfs_cluster_node.core.errors import ClusterError, Reason

PROFILES_VARIABLE: Final = "IPFS_CLUSTER_NODE_PROFILES"
PROFILE_VARIABLE: Final = "IPFS_CLUSTER_NODE_PROFILE"
DEFAULT_PROFILE: Final = "default"


@dataclass(frozen=True, slots=True)
class ProfileEndpoint:
    """A master to talk to."""

    address: str
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How to reach a cluster, and as whom."""

    endpoints: tuple[ProfileEndpoint, ...]
    ca: Path
    certificate: Path
    key: Path


def profiles_path() -> Path:
    """Where profiles are kept."""
    given = os.environ.get(PROFILES_VARIABLE)
    if given:
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "ipfs-cluster-node" / "profiles.toml"


def chosen_profile(name: str | None) -> str:
    """Name the profile in use: the given one, else the environment's, else `default`."""
    return name or os.environ.get(PROFILE_VARIABLE) or DEFAULT_PROFILE


def load_profile(name: str | None) -> Profile:
    """Read a profile: the named one, else the environment's, else `default`.

    Raises:
        ClusterError: CONFIG_INVALID.
    """
    path = profiles_path()
    name = chosen_profile(name)
    profiles = _read(path)
    if name not in profiles:
        there = f"there are {', '.join(sorted(profiles))}" if profiles else "none is there"
        raise ClusterError(
            Reason.CONFIG_INVALID,
            f"no profile {name!r} in {path} ({there}); `init`, `join` and `dev` write one, "
            "--profile chooses",
        )
    table = profiles[name]
    try:
        return Profile(
            endpoints=tuple(
                ProfileEndpoint(str(entry["address"]), str(entry["node_id"]))
                for entry in table["endpoints"]
            ),
            ca=Path(table["ca"]),
            certificate=Path(table["certificate"]),
            key=Path(table["key"]),
        )
    except (KeyError, TypeError) as error:
        raise ClusterError(
            Reason.CONFIG_INVALID, f"profile {name!r} in {path} lacks {error}; mend or remake it"
        ) from error


def save_profile(name: str, profile: Profile, *, only_if_absent: bool = False) -> bool:
    """Write a profile, leaving the others; False if it was there and was left.

    Raises:
        ClusterError: CONFIG_INVALID, if the file can't be read.
    """
    path = profiles_path()
    profiles = _read(path)
    if only_if_absent and name in profiles:
        return False
    profiles[name] = {
        "ca": str(profile.ca),
        "certificate": str(profile.certificate),
        "key": str(profile.key),
        "endpoints": [{"address": e.address, "node_id": e.node_id} for e in profile.endpoints],
    }
    lines = ["# Written by ipfs-cluster-node; edit freely."]
    for key, table in profiles.items():
        lines += ["", f"[profiles.{json.dumps(key)}]"]
        lines += [f"{part} = {json.dumps(table[part])}" for part in ("ca", "certificate", "key")]
        for entry in table["endpoints"]:
            lines += [f"[[profiles.{json.dumps(key)}.endpoints]]"]
            lines += [f"{part} = {json.dumps(entry[part])}" for part in ("address", "node_id")]
    make_private_directory(path.parent)
    write_private(path, ("\n".join(lines) + "\n").encode())
    return True


def _read(path: Path) -> dict[str, dict]:  # type: ignore[type-arg]
    try:
        profiles = tomllib.loads(path.read_text("utf-8")).get("profiles", {})
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ClusterError(
            Reason.CONFIG_INVALID, f"{path} can't be read ({error}); mend or remove it"
        ) from error
    return dict(profiles)
