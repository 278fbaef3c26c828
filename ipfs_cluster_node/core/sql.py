"""What can be said of a query without a database. Pure."""

import re
from collections.abc import Iterable
from typing import Final

SQL_TASK_TYPE: Final = "data_processing"
"""The built-in task type that runs a SELECT over its inputs."""


def unused_names(query: str, names: Iterable[str]) -> list[str]:
    """The names that stand nowhere in the query; as in SQL, upper and lower case are the same.

    A name in a text or a comment counts as used: `query_table('t')` reads a table by its text.
    """
    return [
        name
        for name in names
        if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", query, re.IGNORECASE)
    ]
