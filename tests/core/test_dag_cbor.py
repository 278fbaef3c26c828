"""Each value has one encoding: canonical bytes round-trip, and others are refused."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.core.dag_cbor import DEPTH_MAX, DagCborError, Link, Value, decode, encode
from tests.support.dag_cbor import LINK, values

CONTENT = "582500" + "01711220" + "00" * 32


def read(data: bytes, *, bytes_max: int = 4096, depth_max: int = 16) -> Value:
    return decode(data, bytes_max=bytes_max, depth_max=depth_max)


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        # RFC 8949, appendix A, as far as DAG-CBOR has it.
        ("00", 0),
        ("17", 23),
        ("1818", 24),
        ("18ff", 255),
        ("190100", 256),
        ("19ffff", 65_535),
        ("1a00010000", 65_536),
        ("1affffffff", 2**32 - 1),
        ("1b0000000100000000", 2**32),
        ("1bffffffffffffffff", 2**64 - 1),
        ("20", -1),
        ("3863", -100),
        ("3bffffffffffffffff", -(2**64)),
        ("f4", False),
        ("f5", True),
        ("f6", None),
        ("fb3ff199999999999a", 1.1),
        ("fb0000000000000000", 0.0),
        ("40", b""),
        ("4401020304", b"\1\2\3\4"),
        ("60", ""),
        ("62c3bc", "ü"),
        ("80", []),
        ("83010203", [1, 2, 3]),
        ("a0", {}),
        ("a26161016162820203", {"a": 1, "b": [2, 3]}),
        ("a2617a0062616101", {"z": 0, "aa": 1}),
    ],
)
def test_the_encodings_of_the_rfc(encoded: str, value: Value) -> None:
    assert read(bytes.fromhex(encoded)) == value
    assert type(read(bytes.fromhex(encoded))) is type(value)
    assert encode(value).hex() == encoded


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        ("", "nothing"),
        ("1800", "0 in two bytes"),
        ("1817", "23 in two bytes"),
        ("1900ff", "255 in three bytes"),
        ("1a0000ffff", "65,535 in five bytes"),
        ("1b00000000ffffffff", "2^32 - 1 in nine bytes"),
        ("3800", "-1 in two bytes"),
        ("5800", "a length in its longer form"),
        ("7800", "a length in its longer form"),
        ("9800", "a count in its longer form"),
        ("b800", "a count in its longer form"),
        ("d82a5800", "a link's length in its longer form"),
        ("1c", "a reserved head"),
        ("1d", "a reserved head"),
        ("1e", "a reserved head"),
        ("5f4100ff", "bytes of indefinite length"),
        ("7f6161ff", "text of indefinite length"),
        ("9f00ff", "a list of indefinite length"),
        ("bf616100ff", "a map of indefinite length"),
        ("1f", "an int of indefinite length"),
        ("ff", "a break"),
        ("f7", "undefined"),
        ("e0", "a simple value"),
        ("f3", "a simple value"),
        ("f820", "a simple value in two bytes"),
        ("f93c00", "a float of 16 bits"),
        ("fa3f800000", "a float of 32 bits"),
        ("fb7ff8000000000000", "NaN"),
        ("fb7ff0000000000000", "infinity"),
        ("fbfff0000000000000", "minus infinity"),
        ("fb3ff0", "half a float"),
        ("a10001", "an int for a key"),
        ("a1410001", "bytes for a key"),
        ("a2616101616101", "a key twice"),
        ("a2616201616101", "keys out of order"),
        ("a262616101617a00", "a longer key first"),
        ("a1", "a map cut off"),
        ("a16161", "a map without its value"),
        ("81", "a list cut off"),
        ("9bffffffffffffffff", "a list's length that lies"),
        ("bbffffffffffffffff", "a map's length that lies"),
        ("5bffffffffffffffff", "a length that lies"),
        ("7affffffff61", "a length that lies"),
        ("61ff", "text that is not UTF-8"),
        ("63eda080", "a surrogate"),
        ("62c080", "an overlong NUL"),
        ("0000", "a byte behind"),
        ("c000", "tag 0"),
        ("c11a514b67b0", "tag 1"),
        ("d82b4100", "tag 43"),
        ("d82a00", "a link that is an int"),
        ("d82a6100", "a link that is text"),
        ("d82a40", "an empty link"),
        ("d82a4100", "a link without a CID"),
        ("d82a450155122000", "a link without its zero"),
        ("d82a46000055120100", "a CID of version 0 that has a codec"),
        ("d82a46000255120100", "a CID of version 2"),
        ("d82a460001551202aa", "a hash that is too short"),
        ("d82a4700015512018080", "a hash that is too long"),
        ("d82a470001d500120100", "a codec whose varint is not minimal"),
        ("d82a4300", "a link cut off"),
        ("f7" + "00" * 8, "undefined, with bytes enough for a float"),
        ("e0" + "00" * 8, "a simple value, with bytes enough for a float"),
        ("f9" + "3c" * 8, "a float of 16 bits, with bytes enough for more"),
        ("fa" + "3f" * 8, "a float of 32 bits, with bytes enough for more"),
        ("1c" + "ff" * 16, "a reserved head, with bytes enough"),
        ("1d" + "ff" * 32, "a reserved head, with bytes enough"),
        ("1e" + "ff" * 64, "a reserved head, with bytes enough"),
        ("1f" + "ff" * 128, "an indefinite length, with bytes enough"),
        ("5f" + "00" * 128, "an indefinite length, with bytes enough"),
        ("fc" + "00" * 8, "a reserved simple value"),
        ("c0" + CONTENT, "tag 0 on a CID"),
        ("d829" + CONTENT, "tag 41 on a CID"),
        ("d82b" + CONTENT, "tag 43 on a CID"),
        ("d82a582300" + "1320" + "00" * 32, "a CID of version 0 with another hash"),
        ("d82a582300" + "1221" + "00" * 32, "a CID of version 0 with another length"),
        ("d82a582500" + "02711220" + "00" * 32, "a whole CID of version 2"),
        ("d82a582500" + "00711220" + "00" * 32, "a whole CID of version 0 with a codec"),
        ("d82a582500" + "01801220" + "00" * 32, "a codec of two bytes where one should be"),
        ("d82a582500" + "01711320" + "00" * 32 + "00", "bytes behind a link"),
        ("d82a582500" + "01711221" + "00" * 32, "a hash one byte too short"),
        ("d82a582400" + "01711220" + "00" * 31, "a SHA-256 one byte too short"),
        ("d82a582600" + "01711220" + "00" * 33, "a SHA-256 one byte too long"),
        ("d82a782500" + "01711220" + "00" * 32, "a link that is text"),
        ("d82a582501" + "01711220" + "00" * 32, "a link whose first byte is no zero"),
        ("d82a582500" + "02711220" + "00" * 32, "a CID of version 2, else as usual"),
        ("d82a582500" + "05011220" + "00" * 32, "a CID of version 5 and codec 1"),
        ("1affffff", "an int cut off"),
        ("d92a2a00", "the tag in a longer form"),
        ("d9002a00", "the tag in a longer form"),
    ],
)
def test_what_is_not_canonical_is_refused(encoded: str, why: str) -> None:
    with pytest.raises(DagCborError):
        read(bytes.fromhex(encoded))


def test_links_of_both_versions_are_read() -> None:
    version_0 = Link(b"\x12\x20" + bytes(32))
    for link in (LINK, version_0, Link(b"\x01\x55\x00\x02hi")):
        assert read(encode([link])) == [link]
    assert read(bytes.fromhex("d82a" + CONTENT)) == Link(b"\x01\x71\x12\x20" + bytes(32))
    assert encode(LINK).hex() == "d82a582500" + LINK.binary.hex()


@pytest.mark.parametrize(
    "value",
    [
        2**64,
        -(2**64) - 1,
        math.nan,
        math.inf,
        "\ud800",
        {"\udfff": 1},
        {1: 2},
        (1, 2),
        {1, 2},
        object(),
        bytearray(b"no"),
        Link(b"no CID"),
    ],
)
def test_what_it_cannot_hold_is_not_encoded(value: object) -> None:
    with pytest.raises(DagCborError):
        encode(value)  # type: ignore[arg-type]


def nested(depth: int) -> bytes:
    return b"\x81" * depth + b"\x00"


def test_depth_is_capped_to_the_level() -> None:
    assert read(nested(16)) is not None
    with pytest.raises(DagCborError):
        read(nested(17))
    assert read(b"\x00", depth_max=0) == 0
    with pytest.raises(DagCborError):
        read(b"\x80", depth_max=0)
    with pytest.raises(DagCborError):
        read(nested(DEPTH_MAX + 1), depth_max=1000)
    with pytest.raises(DagCborError):
        read(b"\xa1\x61a" * 17 + b"\x00")


def test_what_holds_itself_is_not_encoded_for_ever() -> None:
    round_and_round: list[Value] = []
    round_and_round.append(round_and_round)
    with pytest.raises(DagCborError):
        encode(round_and_round)
    deepest = decode(nested(DEPTH_MAX), bytes_max=100, depth_max=DEPTH_MAX)
    assert encode(deepest) == nested(DEPTH_MAX)
    with pytest.raises(DagCborError):
        encode(deepest, depth_max=DEPTH_MAX - 1)


def test_size_is_capped_to_the_byte() -> None:
    assert read(encode(bytes(4093))) == bytes(4093)
    with pytest.raises(DagCborError):
        read(encode(bytes(4094)))


def test_hostile_input_costs_no_time() -> None:
    began = time.perf_counter()
    for data in (
        nested(4000),
        b"\x9b" + b"\xff" * 8 + bytes(4000),
        bytes(1 << 20),
        b"\xd8\x2a" * 2000,
    ):
        with pytest.raises(DagCborError):
            read(data)
    assert time.perf_counter() - began < 0.1


@given(values)
def test_every_value_comes_back(value: Value) -> None:
    encoded = encode(value)
    assert encode(decode(encoded, bytes_max=len(encoded), depth_max=DEPTH_MAX)) == encoded
    assert decode(encoded, bytes_max=len(encoded), depth_max=DEPTH_MAX) == value


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 9)))
def test_keys_are_sorted_by_length_then_bytes(value: dict[str, int]) -> None:
    keys = list(read(encode(dict(value)), bytes_max=100_000) or {})  # type: ignore[arg-type]
    assert keys == sorted(value, key=lambda key: (len(key.encode()), key.encode()))


@given(st.binary(max_size=200))
def test_any_bytes_are_canonical_or_refused(data: bytes) -> None:
    try:
        value = read(data)
    except DagCborError:
        return
    assert encode(value) == data


@given(values, st.data())
def test_a_change_of_one_byte_gives_another_value_or_none(
    value: Value, data: st.DataObject
) -> None:
    encoded = bytearray(encode(value))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode(bytes(encoded), bytes_max=len(encoded), depth_max=DEPTH_MAX)
    except DagCborError:
        return
    assert encode(changed) == encoded
