"""Tells how to use a join token on another machine, and at which masters."""

from collections.abc import Iterable

from ipfs_cluster_node.cli.output import command_line, say
from ipfs_cluster_node.config.settings import ENROLMENT_PORT
from ipfs_cluster_node.core.endpoints import parse_endpoint


def say_how_to_join(where: str, enrolment_endpoints: Iterable[str]) -> None:
    """Print how to join, at masters that other machines can reach, or that there are none."""
    known = list(enrolment_endpoints)
    reached = [each for each in known if not parse_endpoint(each).is_loopback]
    first, *others = reached or known or [f"MASTER:{ENROLMENT_PORT}"]
    say(f"on {where}: {command_line('join', 'TOKEN', '--enrolment', first)}", err=True)
    if others:
        say(f"or at another master: --enrolment {', '.join(others)}", err=True)
    if known and not reached:
        say(
            "no master accepts joiners from other machines: start one with `serve "
            f"--enrolment-bind HOST:{ENROLMENT_PORT}`, a host that they can reach, or write "
            "`enrolment_bind` in its config.toml",
            err=True,
        )
