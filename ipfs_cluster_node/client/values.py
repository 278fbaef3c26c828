"""Values of Python as payloads, and results as values of Python; and what no request can hold."""

import json
from collections.abc import Iterable
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, Final, TypeVar

from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.model import DEFAULT_CONTENT_TYPE, PAYLOAD_BYTES_MAX
from ipfs_cluster_node.core.views import ListedResult

JSON_CONTENT_TYPE: Final = "application/json"
TEXT_CONTENT_TYPE: Final = "text/plain; charset=utf-8"
MILLISECOND: Final = timedelta(milliseconds=1)
SHOWN_CHARS_MAX: Final = 80

Payload = bytes | bytearray | memoryview | str | dict[str, Any] | list[Any]
"""Bytes as they are, text as UTF-8, a dict or list as JSON."""
Message = TypeVar("Message")


def encoded(payload: Payload) -> tuple[bytes, str]:
    """A payload's bytes and content type.

    Raises:
        ClusterError: INVALID_ARGUMENT for a value of another type, or one that JSON or UTF-8 can't
            hold; PAYLOAD_TOO_LARGE.
    """
    data, content_type = _encoded(payload)
    if len(data) > PAYLOAD_BYTES_MAX:
        raise ClusterError(
            Reason.PAYLOAD_TOO_LARGE,
            f"the payload has {len(data)} bytes, at most {PAYLOAD_BYTES_MAX} are allowed; add "
            "larger data as content and name its CID as an input",
        )
    return data, content_type


def _encoded(payload: Payload) -> tuple[bytes, str]:
    match payload:
        case str():
            return checked_text(payload, "payload").encode(), TEXT_CONTENT_TYPE
        case bytes() | bytearray() | memoryview():
            return bytes(payload), DEFAULT_CONTENT_TYPE
        case dict() | list():
            try:
                return json.dumps(payload, allow_nan=False).encode(), JSON_CONTENT_TYPE
            except (TypeError, ValueError, RecursionError) as error:
                raise ClusterError(
                    Reason.INVALID_ARGUMENT,
                    f"the payload can't be written as JSON: {error}; give bytes, or values that "
                    "JSON has",
                ) from error
    raise ClusterError(
        Reason.INVALID_ARGUMENT,
        f"the payload is {shown(payload)}; give bytes, text, or a dict or list to send as JSON",
    )


def decoded(result: ListedResult) -> Any:
    """What the handler returned: JSON as its value, text as str, other data as bytes.

    A result with a file is returned as it is: `cid` names the file, `data` is what came beside it.
    Data that is not what its content type says is returned as bytes.
    """
    if result.cid:
        return result
    data = result.data or b""
    content_type = result.content_type.partition(";")[0].strip().lower()
    try:
        if content_type == JSON_CONTENT_TYPE:
            return json.loads(data)
        if content_type.startswith("text/"):
            return data.decode()
    except (ValueError, RecursionError):
        pass
    return data


def checked_text(text: Any, field: str) -> str:
    """Check that a value is text that UTF-8 can hold; raises INVALID_ARGUMENT."""
    if not isinstance(text, str):
        raise invalid_field(field, f"it is {shown(text)}; give text")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid_field(
            field,
            f"{error.object[error.start]!a} is half of a surrogate pair, which UTF-8 can't hold",
        ) from error
    return text


def milliseconds(duration: Any, field: str) -> int:
    """The whole milliseconds of a `timedelta`; raises INVALID_ARGUMENT."""
    if not isinstance(duration, timedelta):
        raise invalid_field(field, f"it is {shown(duration)}; give a timedelta")
    return duration // MILLISECOND


def seconds(timeout: Any) -> float:
    """The seconds of a `timedelta`; raises INVALID_ARGUMENT."""
    if not isinstance(timeout, timedelta):
        raise invalid_field(
            "timeout", f"it is {shown(timeout)}; give a timedelta, like timedelta(seconds=30)"
        )
    return timeout.total_seconds()


def ids(task_ids: Any) -> list[str]:
    """Check a list of ids.

    Raises:
        ClusterError: INVALID_ARGUMENT; also for one text, which is a list of its letters.
    """
    return texts(task_ids, "task_ids", of="ids")


def texts(values: Any, field: str, *, of: str = "texts") -> list[str]:
    """Check a list of texts; raises INVALID_ARGUMENT, also for one text alone."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise invalid_field(field, f"it is {shown(values)}; give a list of {of}")
    return [checked_text(value, field) for value in values]


def message(kind: type[Message], **fields: Any) -> Message:
    """Make a request.

    Raises:
        ClusterError: INVALID_ARGUMENT, with the field whose value has the wrong type or range.
    """
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        for name, value in fields.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError) as why:
                raise invalid_field(name, f"it can't be {shown(value)}") from why
        raise invalid_field("request", str(error)) from error


def needs(*modules: str, by: str = "this") -> None:
    """Check that optional libraries are installed; raises CONFIG_INVALID."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ClusterError(
            Reason.CONFIG_INVALID,
            f"{by} needs {' and '.join(missing)}; run `pip install {' '.join(missing)}`",
        )


def shown(value: Any) -> str:
    """A value in a message: its type and its start."""
    if value is None:
        return "None"
    try:
        text = ascii(value)
    except ValueError:  # A number of more digits than Python writes.
        return f"of type {type(value).__name__}"
    text = text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 1] + "…"
    return f"of type {type(value).__name__}: {text}"
