"""Checks of what callers give: a value of a wrong type is a `validation_error`."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from ipfs_cluster_node.kit.results import ErrorType, KitError


def given_text(value: Any, name: str) -> str:
    """A text that is not empty; raises KitError."""
    if not isinstance(value, str) or not value:
        raise _wrong(name, value, "a text")
    return value


def given_texts(value: Any, name: str) -> list[str]:
    """A list of texts; raises KitError, also for one text alone."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise _wrong(name, value, "a list of texts")
    return [given_text(each, name) for each in value]


def given_count(value: Any, name: str) -> int:
    """A whole number from 1; raises KitError."""
    if type(value) is not int or value < 1:
        raise _wrong(name, value, "a whole number from 1")
    return value


def given_seconds(value: Any, name: str) -> timedelta:
    """A time in seconds; raises KitError."""
    if type(value) not in (int, float) or not value > 0:
        raise _wrong(name, value, "a number of seconds")
    try:
        return timedelta(seconds=value)
    except OverflowError as error:
        raise _wrong(name, value, "a number of seconds") from error


def given_setting(value: Any, name: str) -> str:
    """A setting's value, as text: given as text, a number or a boolean; raises KitError."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise _wrong(name, value, "a text, a number or a boolean")
    return str(value)


def _wrong(name: str, value: Any, wanted: str) -> KitError:
    return KitError(ErrorType.VALIDATION, f"{name} is {value!a:.80}; give {wanted}")
