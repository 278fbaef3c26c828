"""Which names go into a node's certificate."""

import pytest

from ipfs_cluster_node.core.endpoints import certified_hosts


@pytest.mark.parametrize(
    ("hosts", "names"),
    [
        ([], []),
        (["127.0.0.1"], ["127.0.0.1", "localhost"]),
        (["::1", "a.example"], ["::1", "a.example", "localhost"]),
        (["0:0:0:0:0:0:0:1"], ["0:0:0:0:0:0:0:1", "localhost"]),
        (["localhost", "127.0.0.1", "localhost"], ["localhost", "127.0.0.1"]),
        (["127.0.0.5"], ["127.0.0.5"]),
        (["192.0.2.7", "a.example", "192.0.2.7"], ["192.0.2.7", "a.example"]),
    ],
)
def test_localhost_goes_with_the_addresses_that_it_stands_for(
    hosts: list[str], names: list[str]
) -> None:
    assert certified_hosts(hosts) == names
