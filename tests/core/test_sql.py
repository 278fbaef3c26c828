"""What is said of a query and its parameters without a database."""

from typing import Any

import pytest

from ipfs_cluster_node.core.sql import given_parameter, sql_payload


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=0.1", 0.1),
        ("a=-7", -7),
        ("a=true", True),
        ("a=null", None),
        ("a=[1, 2]", [1, 2]),
        ('a="12"', "12"),
        ("a=ICN", "ICN"),
        ("a=007", "007"),
        ("a=NaN", "NaN"),
        ("a=", ""),
        ("a=x=y", "x=y"),
    ],
)
def test_a_parameter_s_value_is_json_or_else_text(text: str, value: Any) -> None:
    name, found = given_parameter(text)
    assert (name, found, type(found)) == ("a", value, type(value))


@pytest.mark.parametrize("digits", ["9999999999999999.99", "1e400", "1e99999999999999999999"])
def test_a_number_that_a_double_would_round_is_refused_with_the_way_out(digits: str) -> None:
    with pytest.raises(ValueError, match="a has more digits than a DOUBLE; give it as text"):
        given_parameter(f"a=[{digits}]")


@pytest.mark.parametrize("name", ["sql", "text_inputs"])
def test_a_parameter_may_not_have_the_name_of_a_field_of_the_payload(name: str) -> None:
    with pytest.raises(ValueError, match=f"a parameter can't be named {name}"):
        given_parameter(f"{name}=1")


@pytest.mark.parametrize("text", ["a", "=1", ""])
def test_a_parameter_without_a_name_or_a_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write NAME=VALUE"):
        given_parameter(text)


def test_a_payload_has_only_what_is_given() -> None:
    assert sql_payload(None, None) == {}
    assert sql_payload("SELECT 1", {}) == {"sql": "SELECT 1"}
    assert sql_payload("SELECT $a", {"a": 1}) == {"sql": "SELECT $a", "parameters": {"a": 1}}
