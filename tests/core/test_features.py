"""Nothing is proposed that a voter could not apply."""

from collections.abc import Mapping

from ipfs_cluster_node import __version__
from ipfs_cluster_node.core.commands import CommandBody, ExpireRecords, ProposeConfig
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.features import (
    FEATURES,
    LAGGING_NAMED_MAX,
    OLDEST,
    Feature,
    not_ready,
    release_of,
)
from ipfs_cluster_node.core.ids import NodeId

EXPIRY = Feature(
    name="expiry in steps",
    least_release=(0, 3, 0),
    is_used_by=lambda body: isinstance(body, ExpireRecords) and body.count_max > 0,
)
NEW, OLD = ExpireRecords(count_max=1), ExpireRecords()


def told(body: CommandBody, versions: Mapping[str, str]) -> str | None:
    registered = {NodeId(node): version for node, version in versions.items()}
    refused = not_ready(body, lambda: registered, [EXPIRY])
    if refused is None:
        return None
    assert refused.reason is Reason.FEATURE_NOT_READY
    return refused.message


def test_versions_are_compared_as_numbers() -> None:
    assert release_of("0.10.2") > release_of("0.9.30") > release_of("0.9.4")
    assert release_of("1.2.3.dev4+local") == (1, 2, 3)
    for malformed in ("", "1.2", "v1.2.3", "x", "1.2.", "9" * 400):
        assert release_of(malformed) == (0, 0, 0) < OLDEST
    assert release_of(__version__) >= OLDEST


def test_a_feature_waits_for_the_last_voter() -> None:
    assert told(NEW, {"a": "0.3.0", "b": "0.4.1"}) is None
    assert told(NEW, {"a": "0.3.0", "b": "0.2.9", "c": ""}) == (
        "expiry in steps needs release 0.3.0 on every master: b runs 0.2.9, c runs an unknown "
        "version; upgrade them first"
    )


def test_what_every_release_knows_waits_for_nobody() -> None:
    assert told(OLD, {"a": "0.1.0", "b": ""}) is None
    assert told(ProposeConfig(values={"user.a": "1"}), {"a": ""}) is None


def test_versions_are_not_read_where_no_feature_is_used() -> None:
    def never() -> Mapping[NodeId, str]:
        raise AssertionError

    assert not_ready(OLD, never, [EXPIRY]) is None


def test_a_refusal_names_some_and_counts_the_rest() -> None:
    message = told(NEW, {f"n{number:02}": "0.1.0" for number in range(LAGGING_NAMED_MAX + 2)})
    assert message is not None
    assert message.count(" runs ") == LAGGING_NAMED_MAX
    assert "and 2 more; upgrade" in message


def test_features_are_newer_than_the_first_release() -> None:
    assert all(feature.least_release > OLDEST for feature in FEATURES)
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
