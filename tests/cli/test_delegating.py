"""What `token delegate` answers names every limit."""

import pytest

from ipfs_cluster_node.cli.delegating import limits_text


@pytest.mark.parametrize(
    ("where", "most", "policy", "said"),
    [
        ((), (), None, ""),
        (("namespace=team-b",), (), None, " where namespace=team-b"),
        (("namespace=a/*",), ("priority=3",), None, " where namespace=a/* and priority at most 3"),
        ((), (), '[["==", ".self", true]]', ' where policy [["==", ".self", true]]'),
    ],
)
def test_every_limit_is_named(
    where: tuple[str, ...], most: tuple[str, ...], policy: str | None, said: str
) -> None:
    assert limits_text(where, most, policy) == said
