"""Which message a method takes, by its full name."""

from typing import Any

from google.protobuf import descriptor_pool, message_factory

_POOL = descriptor_pool.Default()  # type: ignore[no-untyped-call]


def request_type_of(method: str) -> Any | None:
    """The class of a method's request; None for a method that is not known."""
    _, service, name = method.split("/")
    try:
        described = _POOL.FindServiceByName(service).FindMethodByName(name)
    except KeyError:
        return None
    return message_factory.GetMessageClass(described.input_type)
