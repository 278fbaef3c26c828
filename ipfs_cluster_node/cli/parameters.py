"""`--param NAME=VALUE` of `sql` and `task submit`."""

from collections.abc import Callable
from typing import Any

import click

from ipfs_cluster_node.cli.output import Parsed
from ipfs_cluster_node.core.sql import given_parameter


def parameter_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option; the command gets `parameters`, pairs of a name and a JSON value."""
    return click.option(
        "--param",
        "parameters",
        metavar="NAME=VALUE",
        multiple=True,
        type=Parsed("name=value", given_parameter),
        callback=_each_once,
        help="The value of $NAME in the SQL: JSON, such as 0.1, true or [1, 2], else text.",
    )(function)


def _each_once(_context: Any, _parameter: Any, given: tuple[tuple[str, Any], ...]) -> Any:
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise click.BadParameter(f"{name} is given twice")
    return given
