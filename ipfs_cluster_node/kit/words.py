"""Errors in the kit's words: what the command line does by options, the metadata do by keys."""

import re
import shlex
from typing import Final

_SAID: Final = tuple(
    (re.compile(pattern), kit)
    for pattern, kit in (
        (r"name another( directory with)? --home", "give another node_name in the metadata"),
        (r"(in|with) another --home", "with another node_name in the metadata"),
        (
            r"choose another with --(?P<key>bind|enrolment-bind|advertise)",
            "give another `{key}` in the metadata",
        ),
        (r"see --(?P<key>bind|enrolment-bind)", "see `{key}` of the metadata"),
        (r"with --(?P<key>bind|enrolment-bind|advertise)", "by `{key}` in the metadata"),
        (
            r"start them with `ipfs-cluster-node serve`, or a small cluster with `[a-z -]+ dev`",
            "start the programs whose kits are masters",
        ),
        (
            r"name one that runs: ipfs-cluster-node serve --master [A-Z_@:]+ \(see `node list`\)",
            "name one that runs in `master_addresses`, by the `node_address` of its kit",
        ),
    )
)
_COMMAND: Final = re.compile(r"ipfs-cluster-node (?=[a-z])(?!(serve|init|join|recover|dev)\b)")
"""A command that calls the cluster, by a profile."""


def in_words_of_the_kit(message: str, cluster_name: str) -> str:
    """The same way out for a program: a key of the metadata, or a command as it can be run."""
    for pattern, kit in _SAID:
        message = pattern.sub(lambda found, kit=kit: _filled(kit, found), message)  # type: ignore[misc]
    return _COMMAND.sub(lambda _: f"{command(cluster_name)} ", message)


def command(cluster_name: str) -> str:
    """The start of a command to a kit's cluster: its profile has the cluster's name."""
    return f"ipfs-cluster-node --profile {shlex.quote(cluster_name)}"


def _filled(kit: str, found: re.Match[str]) -> str:
    keys = {name: text.replace("-", "_") for name, text in found.groupdict().items()}
    return kit.format(**keys)
