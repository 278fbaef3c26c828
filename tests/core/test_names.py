"""Which id a short form means, and how short ids are shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.core import names
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import node_id_from_did
from ipfs_cluster_node.core.multiformats import DAG_CBOR, DAG_PB, RAW, cid_of
from ipfs_cluster_node.core.names import Named, chosen
from tests.support.ucan import actor

NODES = [node_id_from_did(actor(n).did) for n in range(3)]
PART = len("12D3KooW")
TASK_IDS = st.sets(st.text("01", min_size=20, max_size=20), max_size=30)
"""Of two characters: many begin alike."""


@given(TASK_IDS)
def test_a_short_form_names_one_id_and_no_shorter_one_does(ids: set[str]) -> None:
    shown = names.TASK.shortest(ids)
    assert shown.keys() == ids
    for whole, short in shown.items():
        assert len(short) >= names.SHOWN_CHARS_MIN
        assert [each for each in ids if each.startswith(short)] == [whole]
        if len(short) > names.SHOWN_CHARS_MIN:
            assert len([each for each in ids if each.startswith(short[:-1])]) > 1
        if len(short) < len(whole):
            assert chosen(names.TASK, short, map(Named, ids)).id == whole


def test_short_forms_count_from_where_ids_differ() -> None:
    shown = names.NODE.shortest(NODES)
    assert [shown[each] for each in NODES] == [each[: PART + 8] for each in NODES]
    files = [str(cid_of(codec, b"x")) for codec in (RAW, DAG_PB)]
    assert [len(short) for short in names.CONTENT.shortest(files).values()] == [7 + 8, 7 + 8]


def test_the_constant_start_may_be_left_out() -> None:
    cid = str(cid_of(DAG_PB, b"x"))
    assert names.CONTENT.prefixes(cid[:12]) == (cid[:12],)
    assert cid[:12] in names.CONTENT.prefixes(cid[7:12])
    assert names.CONTENT.prefixes(cid[:9]) == ()  # Every CID of its kind begins nearly so.
    token = str(cid_of(DAG_CBOR, b"x"))
    assert names.DELEGATION.prefixes(token[7:12]) == (token[:12],)
    candidates = [Named(each) for each in NODES]
    assert chosen(names.NODE, NODES[1][PART : PART + 6], candidates).id == NODES[1]
    assert chosen(names.NODE, NODES[1][: PART + 6], candidates).id == NODES[1]


@pytest.mark.parametrize(
    "text", ["", "abc", "0" * 20, "0" * 25, "ABCDEF", "my-task", "0123\n", "0123/"]
)
def test_a_whole_id_and_other_text_are_no_beginnings(text: str) -> None:
    assert names.TASK.prefixes(text) == ()


@pytest.mark.parametrize(
    ("kind", "text", "needed"),
    [
        (names.TASK, "3bd", 4),
        (names.TASK, "3bd0", 0),
        (names.TASK, "xyz", 0),
        (names.TASK, "", 0),
        (names.CONTENT, "bafkreid5", 11),
        (names.CONTENT, "bafkrei", 11),
        (names.CONTENT, "baf", 11),
        (names.CONTENT, "d5", 4),
        (names.CONTENT, "bafkreid5aa", 0),
        (names.CONTENT, "d5!", 0),
    ],
)
def test_a_beginning_that_is_too_short_is_told_its_least_length(
    kind: names.IdKind, text: str, needed: int
) -> None:
    assert kind.chars_needed(text) == needed


@pytest.mark.parametrize("kind", [names.CONTENT, names.DELEGATION, names.NODE])
def test_a_whole_id_is_never_a_beginning(kind: names.IdKind) -> None:
    wholes = [*NODES, *(str(cid_of(codec, b"x")) for codec in (RAW, DAG_PB, DAG_CBOR))]
    mine = [whole for whole in wholes if whole.startswith(kind.starts)]
    assert mine
    assert not any(map(kind.prefixes, mine))


def test_several_candidates_are_named_up_to_a_bound() -> None:
    some = [Named(each, "w") for each in NODES]
    with pytest.raises(ClusterError) as refused:
        chosen(names.NODE, "w", some)
    assert refused.value.reason is Reason.INVALID_ARGUMENT
    assert all(f"w ({each})" in refused.value.message for each in NODES)
    many = [Named(f"{n:020x}", "same") for n in range(100)]
    with pytest.raises(ClusterError, match="and more") as refused:
        chosen(names.TASK, "same", many)
    assert refused.value.message.count("same (") == names.CANDIDATES_MAX


def test_a_name_that_is_the_beginning_of_another_id_is_ambiguous() -> None:
    beginning = NODES[0][PART : PART + 8]
    impostor = Named(NODES[1], beginning)
    with pytest.raises(ClusterError, match="ambiguous"):
        chosen(names.NODE, beginning, [Named(NODES[0], "w1"), impostor])
    assert chosen(names.NODE, beginning, [impostor]) == impostor


def test_none_is_the_reason_of_its_kind() -> None:
    with pytest.raises(ClusterError, match="no node 'w9'") as refused:
        chosen(names.NODE, "w9", [Named(NODES[0], "w1")])
    assert refused.value.reason is Reason.MEMBER_NOT_FOUND
