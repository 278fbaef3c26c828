"""Checks of what callers give: a value of a wrong type is a `validation_error`."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from ipfs_cluster_node.core.model import PRIORITY_MAX, Role
from ipfs_cluster_node.kit.results import ErrorType, KitError

NODE_ROLES: Final = (Role.MASTER, Role.WORKER, Role.LEECHER)


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


def given_role(value: Any) -> str:
    """A role of nodes; raises KitError."""
    if not isinstance(value, str) or value not in NODE_ROLES:
        raise KitError(
            ErrorType.VALIDATION, f"Invalid role: {value!s:.80}; give {', '.join(NODE_ROLES)}"
        )
    return value


def given_priority(value: Any) -> int:
    """0 to 9; raises KitError."""
    if type(value) is not int or not 0 <= value <= PRIORITY_MAX:
        raise _wrong("priority", value, f"a whole number from 0 to {PRIORITY_MAX}")
    return value


def given_setting(value: Any, name: str) -> str:
    """A setting's value, as text: given as text, a number or a boolean; raises KitError."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise _wrong(name, value, "a text, a number or a boolean")
    return str(value)


def text_in(metadata: Mapping[str, Any], key: str, default: str = "") -> str:
    """A text of the metadata, the default for none; raises KitError.

    Whoever reads a passphrase from an unset variable must not get `None` as one.
    """
    value = metadata.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise _wrong(key, value, "a text")
    return value


def texts_in(metadata: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Texts of the metadata, or one, or none; raises KitError."""
    value = metadata.get(key)
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(given_texts(value, key))


def switch_in(metadata: Mapping[str, Any], key: str) -> bool:
    """`True` or `False` of the metadata, False for none; raises KitError: `"no"` would be true."""
    value = metadata.get(key)
    if not isinstance(value, bool | None):
        raise _wrong(key, value, "True or False")
    return bool(value)


def _wrong(name: str, value: Any, wanted: str) -> KitError:
    try:
        shown = f"{value!a:.80}"
    except Exception:  # Whatever it is.
        shown = f"of type {type(value).__name__}"
    return KitError(ErrorType.VALIDATION, f"{name} is {shown}; give {wanted}")
