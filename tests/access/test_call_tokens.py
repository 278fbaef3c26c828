"""What is read from a call's metadata, and what is refused."""

from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.access.call_tokens import NOTHING, CallTokens, read_metadata
from ipfs_cluster_node.codec.metadata import ATTEMPT_KEY, CONSISTENCY_KEY, UCAN_KEY, UCAN_PROOF_KEY
from ipfs_cluster_node.core.errors import ClusterError, Reason


def read(*metadata: tuple[str, str]) -> tuple[bool, CallTokens]:
    context: Any = SimpleNamespace(invocation_metadata=lambda: metadata)
    return read_metadata(context, b"request")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ((), (False, NOTHING)),
        ((("user-agent", "x"),), (False, NOTHING)),
        (((CONSISTENCY_KEY, "stale"),), (True, NOTHING)),
        (((CONSISTENCY_KEY, "linearizable"),), (False, NOTHING)),
        (((UCAN_KEY, "C1"),), (False, CallTokens(container="C1", request=b"request"))),
        (((UCAN_PROOF_KEY, "a,b"),), (False, CallTokens(proofs="a,b"))),
        (((ATTEMPT_KEY, "t.1"),), (False, CallTokens(attempt="t.1"))),
    ],
)
def test_each_key_is_read(
    metadata: tuple[tuple[str, str], ...], expected: tuple[bool, CallTokens]
) -> None:
    assert read(*metadata) == expected


@pytest.mark.parametrize(
    "metadata",
    [
        ((CONSISTENCY_KEY, "newest"),),
        ((CONSISTENCY_KEY, "stale"), (CONSISTENCY_KEY, "stale")),
        ((UCAN_KEY, "C1"), (UCAN_PROOF_KEY, "a")),
        ((UCAN_PROOF_KEY, "a"), (UCAN_PROOF_KEY, "b")),
        ((ATTEMPT_KEY, "t.1"), (ATTEMPT_KEY, "t.2")),
    ],
)
def test_what_contradicts_itself_is_refused(metadata: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(ClusterError) as caught:
        read(*metadata)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
