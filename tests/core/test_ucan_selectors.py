"""Commands, selectors and patterns."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ucan.commands import Command, covers, parse_command
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.globs import Glob
from ipfs_cluster_node.core.ucan.selectors import UnresolvedError, parse_selector, select
from tests.support.dag_cbor import ARGS, values


def at(selector: str, value: Value = ARGS) -> Value:
    return select(parse_selector(selector, chars_max=256), value)


# Commands


@pytest.mark.parametrize(
    "text", ["/", "/task", "/task/submit", "/a/b/c/d", "/ほげ/ふが", "/a-b/c_d"]
)
def test_commands_of_the_specification(text: str) -> None:
    assert parse_command(text, chars_max=256) == text


@pytest.mark.parametrize(
    "text", ["", "task", "/Task", "/task/", "//", "/task//submit", "//task", "task/submit", "/tÄsk"]
)
def test_what_is_no_command(text: str) -> None:
    with pytest.raises(UcanError, match="Malformed"):
        parse_command(text, chars_max=256)


def test_a_command_has_at_most_so_many_characters() -> None:
    assert parse_command("/" + "a" * 255, chars_max=256)
    with pytest.raises(UcanError, match="Malformed"):
        parse_command("/" + "a" * 256, chars_max=256)


@pytest.mark.parametrize(
    ("granted", "asked", "wanted"),
    [
        ("/", "/", True),
        ("/", "/task/submit", True),
        ("/task", "/task", True),
        ("/task", "/task/submit", True),
        ("/task", "/tasksteal", False),
        ("/crypto", "/cryptocurrency/steal", False),
        ("/task/submit", "/task", False),
        ("/task/submit", "/", False),
        ("/task", "/state", False),
        ("/task/submit", "/task/submitted", False),
    ],
)
def test_a_command_covers_whole_segments(granted: str, asked: str, *, wanted: bool) -> None:
    assert covers(Command(granted), Command(asked)) is wanted


# Selectors


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        (".", ARGS),
        (".from", "alice@example.com"),
        ('["from"]', "alice@example.com"),
        ('.["from"]', "alice@example.com"),
        ('.[""]', "empty"),
        ('.["a.b"]', "dotted"),
        ('["quote\\"]"]', "quoted"),
        ('["\\u00fcn\\u00ef"]', "umlauts"),
        ('["ünï"]', "umlauts"),
        (".to[1]", "carol@not.example.com"),
        (".to[-1]", "dan@example.com"),
        (".to[-3]", "bob@example.com"),
        (".to[0:1]", ["bob@example.com"]),
        (".to[1:]", ["carol@not.example.com", "dan@example.com"]),
        (".to[:2]", ["bob@example.com", "carol@not.example.com"]),
        (".to[0:-2]", ["bob@example.com"]),
        (".to[7:11]", []),
        (".to[2:1]", []),
        (".to[-1:]", ["dan@example.com"]),
        (".to[99]?", None),
        (".to[]", ["bob@example.com", "carol@not.example.com", "dan@example.com"]),
        (".tags[]", [1, 2, 3]),
        (".raw[3]", 140),
        (".raw[-1]", 0xC4),
        (".raw[1:3]", b"\xa9\xc1"),
        (".raw[:1][]", [0xD6]),
        (".nope?", None),
        ('["nope"]?', None),
        (".nope???", None),
        (".nope?.more?", None),
        (".none", None),
        ('.deep.er["list"][1].x', 2),
        ('.deep["er"].list[1:][0].x', 2),
        (".from[]?", None),
        (".one[0]?", None),
    ],
)
def test_what_a_selector_leads_to(selector: str, wanted: Value) -> None:
    assert at(selector) == wanted


@pytest.mark.parametrize(
    "selector",
    [
        ".nope",
        ".nope.more",
        ".nope.more?.less",
        ".nope?.more",
        ".to[3]",
        ".to[-4]",
        ".to.x",
        ".to[].x",
        ".from[0]",
        ".from[0:1]",
        ".from[]",
        ".from.x",
        ".tags[0]",
        ".tags[0:1]",
        ".one[]",
        ".none.x",
        ".flag[0]",
        ".raw.x",
    ],
)
def test_a_selector_that_leads_to_nothing(selector: str) -> None:
    with pytest.raises(UnresolvedError):
        at(selector)


def test_a_later_question_mark_does_not_help_an_earlier_segment() -> None:
    with pytest.raises(UnresolvedError):
        at(".nope.more?")
    assert at(".nope?.more?") is None


@pytest.mark.parametrize(
    "selector",
    [
        "",
        "from",
        "..",
        "...",
        ".from.",
        "..from",
        ".from..x",
        ".?",
        "?",
        ".?from",
        ".[",
        ".]",
        ".[from]",
        ".['from']",
        '."from"',
        '.["from]',
        ".[01]",
        ".[-0]",
        ".[+1]",
        ".[1.5]",
        ".[1:2:3]",
        ".[:]",
        ".[ 1]",
        ".[1 ]",
        ".from [0]",
        " .from",
        ".from ",
        ".from\n",
        ".1st",
        ".a-b",
        ".ünï",
        ".*",
        ".a|.b",
        ".[1,2]",
        ".from.[0]",
        ".[9999999999999999999]",
        '.["\\q"]',
        '.["\\ud800"]',
        '.["a\nb"]',
        '.["a"]]',
        '.["a"].',
        ".$",
    ],
)
def test_what_is_no_selector(selector: str) -> None:
    with pytest.raises(UcanError, match="Malformed"):
        parse_selector(selector, chars_max=256)


def test_values_come_in_the_order_of_their_keys_whatever_order_the_map_has() -> None:
    assert at(".[]", {"b": 2, "aa": 3, "a": 1}) == [1, 2, 3]


def test_a_selector_has_at_most_so_many_characters() -> None:
    assert parse_selector("." + "a" * 255, chars_max=256)
    with pytest.raises(UcanError, match="Malformed"):
        parse_selector("." + "a" * 256, chars_max=256)


@given(st.text(alphabet='.["]0123-:?ab\\u', max_size=40), values)
def test_a_selector_is_refused_or_leads_somewhere_or_nowhere(selector: str, value: Value) -> None:
    try:
        path = parse_selector(selector, chars_max=256)
        select(path, value)
    except UcanError as error:
        assert error.name is Refusal.MALFORMED
    except UnresolvedError:
        pass


# Patterns


@pytest.mark.parametrize(
    ("pattern", "text", "wanted"),
    [
        ("", "", True),
        ("", "a", False),
        ("a", "a", True),
        ("a", "ab", False),
        ("a", "ba", False),
        ("*", "", True),
        ("*", "anything\nat all", True),
        ("**", "", True),
        ("a*", "a", True),
        ("a*", "ab", True),
        ("a*", "ba", False),
        ("*a", "ba", True),
        ("*a", "ab", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("ab*bc", "abc", False),
        ("ab*bc", "abbc", True),
        ("a*b*c", "aXbYc", True),
        ("a*b*c", "aXcYb", False),
        ("*a*b*", "ba", False),
        ("*a*b*", "xaxbx", True),
        ("*ab*ab*", "ab", False),
        ("*ab*ab*", "abab", True),
        ("a*bb*b", "abbb", True),
        ("a*bb*b", "abb", False),
        ("?", "a", False),
        ("?", "?", True),
        ("[a]", "a", False),
        ("[a]", "[a]", True),
        (".", "x", False),
        ("A*", "a", False),
        (r"\*", "*", True),
        (r"\*", "a", False),
        (r"\**", "*a", True),
        (r"\**", "a*", False),
        (r"a\*b*c", "a*bXc", True),
        (r"a\*b*c", "aXbXc", False),
        (r"\a", r"\a", True),
        ("a\\", "a\\", True),
        (r"\\*", r"\*", True),
        (r"\\*", r"\x", False),
        ("team-a/*", "team-a/x", True),
        ("team-a/*", "team-a", False),
    ],
)
def test_what_a_pattern_matches(pattern: str, text: str, *, wanted: bool) -> None:
    assert Glob.parse(pattern).matches(text) is wanted


def by_the_book(pattern: str, text: str) -> bool:
    """A pattern by its definition, in exponential time."""
    if not pattern:
        return not text
    if pattern.startswith("*"):
        return any(by_the_book(pattern[1:], text[start:]) for start in range(len(text) + 1))
    literal = pattern[1] if pattern.startswith("\\*") else pattern[0]
    rest = pattern[2:] if pattern.startswith("\\*") else pattern[1:]
    return text.startswith(literal) and by_the_book(rest, text[1:])


@given(st.text(alphabet="ab*\\", max_size=7), st.text(alphabet="ab*\\", max_size=7))
def test_patterns_are_as_their_definition_has_them(pattern: str, text: str) -> None:
    assert Glob.parse(pattern).matches(text) == by_the_book(pattern, text)


def test_a_hundred_stars_take_no_time() -> None:
    began = time.perf_counter()
    assert not Glob.parse("a*" * 100 + "b").matches("a" * 4000)
    assert not Glob.parse("*a" * 100 + "*b*").matches("a" * 4000)
    assert not Glob.parse("*" + "a" * 100 + "b" + "*").matches("a" * 4000)
    assert time.perf_counter() - began < 0.05
