"""Named parameters of a statement: JSON values, exact or refused."""

import json
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any, Final

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.sql import exact_double
from ipfs_cluster_node.tasks import TaskError

PARAMETERS_MAX: Final = 100
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
HUGEINT_MAX: Final = 2**127 - 1


def sql_parameters(payload: bytes, taken: AbstractSet[str]) -> dict[str, Any]:
    """The payload's `parameters` without those that are `taken` for something else.

    Raises:
        TaskError: TASK_INPUT_INVALID for a name or value that a statement can't have.
    """
    try:
        given = json.loads(payload, parse_float=Decimal).get("parameters")
    except ArithmeticError as error:
        raise _invalid("a parameter has an exponent that no DOUBLE has") from error
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > PARAMETERS_MAX:
        raise _invalid(f'"parameters" is an object of at most {PARAMETERS_MAX} named values')
    return {name: _value(name, value) for name, value in given.items() if name not in taken}


def check_named(wanted: AbstractSet[str], given: Mapping[str, Any]) -> None:
    """Check that a statement gets the parameters it names, and no others.

    Raises:
        TaskError: TASK_INPUT_INVALID, naming one.
    """
    numbered = sorted(name for name in wanted if not NAME.fullmatch(name))
    if numbered:
        raise _invalid("parameters are named: write $name in the SQL, not ? or $1")
    missing = sorted(wanted - given.keys())
    if missing:
        raise _invalid(f"the SQL names ${missing[0]}, which the parameters don't have")
    unused = sorted(given.keys() - wanted)
    if unused:
        raise _invalid(f"the SQL does not name the parameter {unused[0]}; write ${unused[0]} in it")


def _value(name: str, value: Any) -> Any:
    if not NAME.fullmatch(name):
        raise _invalid(f"{name!r:.80} is no name of a parameter: letters, digits and _")
    if not isinstance(value, list):
        return _single(name, value)
    values = [_single(name, each) for each in value]
    kinds = {type(each) for each in values if each is not None}
    if kinds == {int, float}:  # One list of DOUBLEs.
        values = [_single(name, Decimal(v)) if type(v) is int else v for v in values]
    elif len(kinds) > 1:
        raise _invalid(f"{name} is a list of several kinds of values; a list has one")
    return values


def _single(name: str, value: Any) -> Any:
    if isinstance(value, Decimal):
        number = exact_double(value)
        if number is None:
            raise _invalid(f"{name} has more digits than a DOUBLE; give it as text, and cast it")
        return number
    if isinstance(value, float):  # NaN and infinities, which JSON has not.
        raise _invalid(f"{name} is no number; give it as text, and cast it")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > HUGEINT_MAX:
        raise _invalid(f"{name} has more digits than a HUGEINT; give it as text, and cast it")
    if value is not None and not isinstance(value, str | int):
        raise _invalid(
            f"{name} is a number, a text, a boolean, null or a list of one kind of these; give "
            "others as text"
        )
    return value


def _invalid(message: str) -> TaskError:
    return TaskError(Reason.TASK_INPUT_INVALID, message)
