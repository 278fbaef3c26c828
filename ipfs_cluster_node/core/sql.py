"""What can be said of a query without a database. Pure."""

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

SQL_TASK_TYPE: Final = "data_processing"
"""The built-in task type that runs a SELECT over its inputs."""


RESERVED_PARAMETERS: Final = frozenset({"sql", "text_inputs"})
"""Fields of the payload that code written for IPFS Kit puts among the parameters: no parameter of
the statement has such a name."""


def unused_names(query: str, names: Iterable[str]) -> list[str]:
    """The names that stand nowhere in the query; as in SQL, upper and lower case are the same.

    A name in a text or a comment counts as used: `query_table('t')` reads a table by its text.
    """
    return [
        name
        for name in names
        if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", query, re.IGNORECASE)
    ]


def sql_payload(query: str | None, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """The payload of a SQL task; without a query it describes its inputs."""
    payload: dict[str, Any] = {} if query is None else {"sql": query}
    return payload | ({"parameters": dict(parameters)} if parameters else {})


def exact_double(number: Decimal) -> float | None:
    """The DOUBLE that is this number; None if the nearest one is another number."""
    double = float(number)
    return double if Decimal(repr(double)) == number else None


def given_parameter(text: str) -> tuple[str, Any]:
    """Read `NAME=VALUE`; the value is JSON, or else the text itself.

    Raises:
        ValueError: Neither, or a number that a DOUBLE would round.
    """
    name, separator, written = text.partition("=")
    if not separator or not name:
        raise ValueError(f"{text!r:.80} is no parameter; write NAME=VALUE")
    if name in RESERVED_PARAMETERS:
        raise ValueError(f"a parameter can't be named {name}, which the payload has already")

    def double(digits: str) -> float:
        try:
            exact = exact_double(Decimal(digits))
        except ArithmeticError:  # An exponent that no Decimal has.
            exact = None
        if exact is None:
            raise _RoundedError(
                f"{name} has more digits than a DOUBLE; give it as text, "
                f"'{name}=\"{digits:.40}\"', and cast it in the SQL"
            )
        return exact

    def constant(word: str) -> float:
        raise ValueError(word)  # Not JSON, so it is text.

    try:
        return name, json.loads(written, parse_float=double, parse_constant=constant)
    except _RoundedError:
        raise
    except (ValueError, RecursionError):
        return name, written


class _RoundedError(ValueError):
    """A number that a DOUBLE would round."""
