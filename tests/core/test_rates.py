"""How often one address may call."""

from ipfs_cluster_node.core.rates import ADDRESSES_MAX, RateLimit


def test_a_burst_is_let_through_then_so_many_a_second_and_others_are_not_touched() -> None:
    limit = RateLimit(burst=3, per_second=2.0)
    assert [limit.take("a", 10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert limit.take("b", 10.0) == 0.0
    assert limit.take("a", 10.5) == 0.0
    assert limit.take("a", 10.5) == 0.5
    # Refused calls cost nothing, and a long wait fills the bucket up to one burst.
    assert [limit.take("a", 1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_so_many_addresses_are_remembered() -> None:
    limit = RateLimit(burst=1, per_second=0.001)
    assert limit.take("first", 0.0) == 0.0
    assert limit.take("first", 0.0) > 0.0
    for number in range(ADDRESSES_MAX):
        limit.take(str(number), 0.0)
    assert limit.take("first", 0.0) == 0.0
