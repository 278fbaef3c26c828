"""Random messages of any type, from its descriptor."""

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field

TEXTS = (
    "",
    "a",
    "default",
    "echo",
    "user.k",
    "*",
    "../x",
    "team-a/x",
    "\x00",
    "\u2028é",
    "x" * 70,
    "x" * 5000,
    "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
    "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
    "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e",
    "127.0.0.1:1",
)
DEPTH_MAX = 4
REPEATS_MAX = 3


def fill(rng: random.Random, message: Any, texts: tuple[str, ...], depth: int = 0) -> Any:
    """Set some fields of a message, and return it."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.3:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            target = getattr(message, field.name)
            for _ in range(rng.randrange(REPEATS_MAX)):
                target[rng.choice(texts)] = (
                    rng.choice(texts)
                    if field.message_type.fields_by_name["value"].type == Field.TYPE_STRING
                    else rng.randrange(100)
                )
        elif field.message_type is not None:
            if depth >= DEPTH_MAX:
                continue
            if field.is_repeated:
                for _ in range(rng.randrange(REPEATS_MAX)):
                    fill(rng, getattr(message, field.name).add(), texts, depth + 1)
            else:
                target = getattr(message, field.name)
                target.SetInParent()
                fill(rng, target, texts, depth + 1)
        elif field.is_repeated:
            values = [_value(rng, field, texts) for _ in range(rng.randrange(REPEATS_MAX))]
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, _value(rng, field, texts))
    return message


def _value(rng: random.Random, field: Any, texts: tuple[str, ...]) -> Any:
    match field.type:
        case Field.TYPE_STRING:
            return rng.choice(texts)
        case Field.TYPE_BYTES:
            return rng.randbytes(rng.choice((0, 1, 32, 36, 300)))
        case Field.TYPE_BOOL:
            return rng.random() < 0.5
        case Field.TYPE_DOUBLE | Field.TYPE_FLOAT:
            return rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e300))
        case Field.TYPE_ENUM:
            return rng.choice((0, 1, 2, 99, -1))
        case Field.TYPE_INT32:
            return rng.choice((0, 1, -1, 2**31 - 1, -(2**31), 100))
        case Field.TYPE_INT64:
            return rng.choice((0, 1, -1, 2**63 - 1, -(2**63), 100))
        case _:
            return rng.choice((0, 1, 2**32 - 1))
