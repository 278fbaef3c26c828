"""Kinds of commands, and encodings of them, that not every release knows.

A master that meets a command that it does not know must stop, so a leader proposes such a command
only when every voter has registered a release that knows it. In a rolling upgrade the new feature
is refused until the last voter is upgraded, and everything else continues.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.commands import CommandBody
from ipfs_cluster_node.core.effects import Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId

Release = tuple[int, int, int]
OLDEST: Final[Release] = (0, 1, 0)
"""The first release. What it supports needs no feature."""
LAGGING_NAMED_MAX: Final = 8
"""Nodes that one refusal names."""

_RELEASE: Final = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """A command, or a field of one, that releases know from some version on."""

    name: str
    """As the refusal names it."""
    least_release: Release
    is_used_by: Callable[[CommandBody], bool]
    """Whether a command needs it: by its class, or by a field that older releases do not know."""


FEATURES: Final[Sequence[Feature]] = ()
"""All features newer than `OLDEST`. To add a command or a field of one, add a line here."""


def release_of(version: str) -> Release:
    """Read a registered version; one that is missing or malformed counts as before any release."""
    match = _RELEASE.match(version)
    return (0, 0, 0) if match is None else (int(match[1]), int(match[2]), int(match[3]))


def not_ready(
    body: CommandBody,
    versions: Callable[[], Mapping[NodeId, str]],
    features: Sequence[Feature] = FEATURES,
) -> Rejected | None:
    """Why a command must not be proposed yet; None if every voter can apply it.

    `versions` gives the version that each voter registered, empty if it has not; called only where
    the command uses a feature.
    """
    for feature in features:
        if not feature.is_used_by(body):
            continue
        lagging = [
            f"{node_id} runs {version or 'an unknown version'}"
            for node_id, version in sorted(versions().items())
            if release_of(version) < feature.least_release
        ]
        if lagging:
            named = ", ".join(lagging[:LAGGING_NAMED_MAX])
            more = len(lagging) - LAGGING_NAMED_MAX
            release = ".".join(map(str, feature.least_release))
            return Rejected(
                Reason.FEATURE_NOT_READY,
                f"{feature.name} needs release {release} on every master: {named}"
                f"{f' and {more} more' if more > 0 else ''}; upgrade them first",
            )
    return None
