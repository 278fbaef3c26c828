"""Keys in order, read from any position while others are added."""

from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.core import sorted_keys
from ipfs_cluster_node.core.sorted_keys import SortedKeys

KEYS = st.text("abc", max_size=6)


@given(st.sets(KEYS), st.sets(KEYS), KEYS)
def test_keys_come_in_order_from_any_on(first: set[str], added: set[str], after: str) -> None:
    sorted_keys.BLOCK_KEYS_MAX, before = 4, sorted_keys.BLOCK_KEYS_MAX  # type: ignore[misc]
    try:
        keys = SortedKeys(first)
        for key in added - first:
            keys.add(key)
        assert list(keys.after(after)) == sorted(k for k in first | added if k > after)
    finally:
        sorted_keys.BLOCK_KEYS_MAX = before  # type: ignore[misc]


def test_keys_may_be_added_while_they_are_read() -> None:
    keys = SortedKeys(f"{n:05d}" for n in range(0, 10_000, 2))
    seen = []
    for number, key in enumerate(keys.after("")):
        seen.append(key)
        if number < 5000:
            keys.add(f"{2 * number + 1:05d}")
    assert seen == sorted(set(seen))
    assert set(seen) >= {f"{n:05d}" for n in range(0, 10_000, 2)}


@given(st.sets(KEYS), KEYS, KEYS)
def test_keys_are_found_by_their_beginning(given_keys: set[str], prefix: str, after: str) -> None:
    keys = SortedKeys(given_keys)
    wanted = sorted(k for k in given_keys if k.startswith(prefix) and k > after)
    assert list(keys.starting_with(prefix, after)) == wanted
