"""The origin of a call, for its rate limit."""

import pytest

from ipfs_cluster_node.services.enrolment import network_of


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("ipv4:192.0.2.7:40312", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2::7%5D:40312", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:ffff::8%5D:1", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:3::8]:1", "2001:db8:1:3::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:1", "192.0.2.7"),
        ("unix:", "unix"),
    ],
)
def test_of_ipv6_a_whole_network_is_one_who_knocks(peer: str, network: str) -> None:
    """The owner of a /64 could call from 2^64 addresses."""
    assert network_of(peer) == network
