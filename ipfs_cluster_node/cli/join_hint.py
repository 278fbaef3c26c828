"""Shows a join token, and how to use it on another machine."""

from collections.abc import Iterable

from ipfs_cluster_node.cli.output import command_line, say
from ipfs_cluster_node.config.settings import ENROLMENT_PORT
from ipfs_cluster_node.core.endpoints import parse_endpoint


def show_join_token(token: str, where: str, enrolment_endpoints: Iterable[str]) -> None:
    """Print a token, and the command that joins with it at masters that others can reach."""
    from ipfs_cluster_node.adapters.keys.tokens import with_addresses

    known = list(enrolment_endpoints)
    reached = [each for each in known if not parse_endpoint(each).is_loopback]
    whole = with_addresses(token, reached or known)
    say(whole)
    options = () if known else ("--enrolment", f"MASTER:{ENROLMENT_PORT}")
    say(f"on {where}: {command_line('join', whole, *options)}", err=True)
    if known and not reached:
        say(
            "no master accepts joiners from other machines: start one with `serve "
            f"--enrolment-bind HOST:{ENROLMENT_PORT}`, a host that they can reach, or write "
            "`enrolment_bind` in its config.toml",
            err=True,
        )
