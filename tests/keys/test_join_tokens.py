"""Join tokens with the addresses of masters."""

import pytest

from ipfs_cluster_node.adapters.keys.tokens import (
    ADDRESSES_MAX,
    mint_token,
    parse_token,
    split_token,
    with_addresses,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason

TOKEN = str(mint_token("ab" * 32))


@pytest.mark.parametrize(
    "endpoints", [(), ("a.example:9095",), ("10.0.0.1:9095", "[::1]:9095", "b.example:1")]
)
def test_a_token_and_its_addresses_come_apart_again(endpoints: tuple[str, ...]) -> None:
    whole = with_addresses(TOKEN, endpoints)
    assert " " not in whole
    assert split_token(f" {whole}\n") == (TOKEN, endpoints)


def test_a_token_names_a_bounded_number_of_masters() -> None:
    many = [f"m{n}.example:9095" for n in range(ADDRESSES_MAX + 1)]
    assert split_token(with_addresses(TOKEN, many)) == (TOKEN, tuple(many[:ADDRESSES_MAX]))
    with pytest.raises(ClusterError) as caught:
        split_token(f"{TOKEN}@{','.join(many)}")
    assert caught.value.reason is Reason.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TOKEN[:-1], Reason.TOKEN_INVALID),
        (TOKEN[1:] + "@a.example:9095", Reason.TOKEN_INVALID),
        (TOKEN[:-3] + "@a.example:9095", Reason.TOKEN_INVALID),
        (TOKEN + "@", Reason.INVALID_ARGUMENT),
        (TOKEN + "@a.example", Reason.INVALID_ARGUMENT),
        (TOKEN + "@a.example:9095,", Reason.INVALID_ARGUMENT),
        (TOKEN + "@a.example:9095@b.example:9095", Reason.INVALID_ARGUMENT),
    ],
)
def test_a_damaged_token_is_refused_and_not_repeated(text: str, reason: Reason) -> None:
    with pytest.raises(ClusterError) as caught:
        split_token(text)
    assert caught.value.reason is reason
    assert parse_token(TOKEN).secret not in caught.value.message
