"""Proposed settings, decoded once for all users."""

from collections.abc import Mapping
from typing import NamedTuple, Self

from ipfs_cluster_node.core.errors import invalid_field
from ipfs_cluster_node.core.settings import CHANGES_MAX, KEY_CHARS_MAX
from ipfs_cluster_node.v1 import membership_pb2 as pb


class ConfigProposal(NamedTuple):
    """The settings of a `ProposeConfig`: to be set, and expected."""

    values: Mapping[str, str]
    if_values: Mapping[str, str]
    request_id: str
    """As received, not checked."""

    @classmethod
    def of(cls, request: pb.ProposeConfigRequest) -> Self:
        """Decode a request.

        Raises:
            ClusterError: INVALID_ARGUMENT for too many settings, or too long a key, known or not: a
                policy may examine each character.
        """
        return cls(
            _settings(request.values, "values"),
            _settings(request.if_values, "if_values"),
            request.request_id,
        )


class ConfigPlan(NamedTuple):
    """The settings of a `PlanConfig`: to be set, and expected; or the version to go back to."""

    values: Mapping[str, str]
    if_values: Mapping[str, str]
    revert_to: int | None

    @classmethod
    def of(cls, request: pb.PlanConfigRequest) -> Self:
        """Decode a request.

        Raises:
            ClusterError: INVALID_ARGUMENT, as of a `ConfigProposal`, or for both values and a
                version.
        """
        plan = cls(
            _settings(request.values, "values"),
            _settings(request.if_values, "if_values"),
            request.revert_to if request.HasField("revert_to") else None,
        )
        if plan.revert_to is not None and (plan.values or plan.if_values):
            raise invalid_field("revert_to", "without values and if_values")
        return plan


def _settings(stored: Mapping[str, str], field: str) -> dict[str, str]:
    if len(stored) > CHANGES_MAX:
        raise invalid_field(field, f"at most {CHANGES_MAX}")
    # Half the time of `dict(stored)`, which goes through views in Python.
    settings = {key: stored[key] for key in stored}
    if settings and max(map(len, settings)) > KEY_CHARS_MAX:
        raise invalid_field(field, f"a key has at most {KEY_CHARS_MAX} characters")
    return settings
