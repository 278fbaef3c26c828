"""Whether a decimal number is a DOUBLE: only if the DOUBLE's text is the same number. Pure.

So `0.1` and `0.30000000000000004` are; `9999999999999999.99`, `1e400` (infinity) and `1e-400`
(zero) would be other numbers. The same rule in Python, for samples, and in SQL, for whole files.
"""

import re
from typing import Final

NOT_DIGITS: Final = "[eE].*|[^0-9]"
EXACT_CHARS_MAX: Final = 15
"""So many digits without an exponent always survive the round trip."""


def is_rounded(text: str) -> bool:
    """Whether the nearest DOUBLE differs from the decimal text."""
    return _significand(repr(float(text))) != _significand(text)


def is_rounded_sql(text: str) -> str:
    """The same as SQL, for an expression whose value is the text of a number."""
    double = f"CAST(TRY_CAST({text} AS DOUBLE) AS VARCHAR)"
    return (
        f"CASE WHEN length({text}) <= {EXACT_CHARS_MAX} AND NOT contains(lower({text}), 'e') "
        f"THEN false ELSE {_significand_sql(double)} IS DISTINCT FROM {_significand_sql(text)} END"
    )


def _significand(text: str) -> str:
    """The digits between the zeros at both ends; a DOUBLE is never off by a power of ten."""
    return re.sub(NOT_DIGITS, "", text).strip("0")


def _significand_sql(text: str) -> str:
    return f"trim(regexp_replace({text}, '{NOT_DIGITS}', '', 'g'), '0')"
