"""An error about one master sends the caller to the next; a decision of the cluster does not."""

from collections.abc import Mapping

import pytest

from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.core.errors import ClusterError, Leader, Reason, Trait, most_useful
from tests.support.tls import enrol, make_ca

MASTER_LOCAL = {reason for reason in Reason if reason.has(Trait.MASTER_LOCAL)}
RETRIED = {reason for reason in Reason if reason.has(Trait.RETRYABLE)}
ONE, TWO, THREE = (f"127.0.0.1:{port}" for port in (1, 2, 3))
NAMES_ONE = Leader("12D3KooOne", (ONE,))


class Masters:
    """Three masters, each with what it answers; None is success."""

    def __init__(self, answers: Mapping[str, Reason | None]) -> None:
        self.answers = dict(answers)
        self.asked: list[str] = []
        self.leads_after = 1000
        """The third leads once this many calls were made."""
        self.connection = Connection([(a, None) for a in answers], enrol(make_ca()).tls)
        self.connection.channel = lambda target: target[0]  # type: ignore[method-assign,assignment,return-value]

    async def call(self, *, timeout: float = 2) -> str:
        async def operation(address: object, _seconds: float) -> str:
            self.asked.append(str(address))
            if len(self.asked) > self.leads_after:
                self.answers[THREE] = None
            reason = self.answers[str(address)]
            if reason is None:
                return str(address)
            named = NAMES_ONE if reason is Reason.NOT_LEADER else None
            raise ClusterError(reason, f"{reason} here", leader=named)

        return await self.connection.following(operation, timeout=timeout)


@pytest.mark.parametrize("reason", sorted(MASTER_LOCAL))
@pytest.mark.asyncio
async def test_the_next_master_is_asked_after_every_refusal_that_is_one_masters_own(
    reason: Reason,
) -> None:
    """A client that asked the master with a wrong clock first never tried another one."""
    masters = Masters({ONE: reason, TWO: reason, THREE: None})
    masters.answers[TWO] = Reason.UNREACHABLE
    assert await masters.call() == THREE
    assert masters.asked == [ONE, TWO, THREE]


@pytest.mark.parametrize("reason", sorted(set(Reason) - MASTER_LOCAL - RETRIED))
@pytest.mark.asyncio
async def test_what_the_cluster_decided_is_told_at_once(reason: Reason) -> None:
    masters = Masters({ONE: reason, TWO: None})
    with pytest.raises(ClusterError) as caught:
        await masters.call()
    assert caught.value.reason is reason
    assert masters.asked == [ONE]


@pytest.mark.asyncio
async def test_a_certificate_is_invalid_once_a_majority_says_so() -> None:
    invalid = Reason.CERTIFICATE_INVALID
    masters = Masters({ONE: invalid, TWO: invalid, THREE: None})
    with pytest.raises(ClusterError) as caught:
        await masters.call()
    assert caught.value.reason is invalid
    assert masters.asked == [ONE, TWO]
    assert caught.value.metadata["master"] in {ONE, TWO}
    assert f"(said by {caught.value.metadata['master']})" in caught.value.message


@pytest.mark.asyncio
async def test_a_leader_that_finds_the_certificate_invalid_alone_is_waited_out() -> None:
    """The others accept the caller: the leader's clock is wrong, and another will lead soon."""
    masters = Masters(
        {ONE: Reason.CERTIFICATE_INVALID, TWO: Reason.NOT_LEADER, THREE: Reason.NOT_LEADER}
    )

    masters.leads_after = 6
    assert await masters.call(timeout=10) == THREE
    assert masters.asked[:3] == [ONE, TWO, THREE], "not back to the one that is named, at once"


@pytest.mark.asyncio
async def test_at_the_end_of_the_time_the_most_useful_refusal_is_told_with_its_master() -> None:
    masters = Masters(
        {ONE: Reason.CERTIFICATE_INVALID, TWO: Reason.NOT_LEADER, THREE: Reason.UNREACHABLE}
    )
    with pytest.raises(ClusterError) as caught:
        await masters.call(timeout=1)
    assert caught.value.reason is Reason.CERTIFICATE_INVALID
    assert caught.value.metadata["master"] == ONE


@pytest.mark.asyncio
async def test_full_disks_are_told_and_not_that_nobody_leads() -> None:
    """Two of three masters can't write: the third can't know why it has no majority."""
    masters = Masters(
        {ONE: Reason.LOG_STORAGE_FAILED, TWO: Reason.LOG_STORAGE_FAILED, THREE: Reason.NO_LEADER}
    )
    for timeout in (0.2, 0.5, 1.0):
        with pytest.raises(ClusterError) as caught:
            await masters.call(timeout=timeout)
        assert caught.value.reason is Reason.LOG_STORAGE_FAILED


@pytest.mark.asyncio
async def test_a_defect_of_the_only_leader_is_told_after_one_round() -> None:
    masters = Masters({ONE: Reason.INTERNAL, TWO: Reason.NOT_LEADER, THREE: Reason.NOT_LEADER})
    with pytest.raises(ClusterError) as caught:
        await masters.call(timeout=60)
    assert caught.value.reason is Reason.INTERNAL
    assert masters.asked == [ONE, TWO, THREE]


@pytest.mark.asyncio
async def test_the_only_known_master_is_not_asked_again_for_what_does_not_pass() -> None:
    masters = Masters({ONE: Reason.AUTHORITY_SEALED})
    with pytest.raises(ClusterError) as caught:
        await masters.call(timeout=60)
    assert caught.value.reason is Reason.AUTHORITY_SEALED
    assert masters.asked == [ONE]


def test_what_the_cluster_decided_is_more_useful_than_what_one_master_says_of_itself() -> None:
    order = [Reason.UNREACHABLE, Reason.NOT_LEADER, Reason.CLOCK_OFF, Reason.CERTIFICATE_REVOKED]
    errors = [ClusterError(reason, "x") for reason in order]
    for count in range(1, len(errors) + 1):
        assert most_useful(errors[:count]) is errors[count - 1]
        assert most_useful(reversed(errors[:count])) is errors[count - 1]
    later = [ClusterError(Reason.CLOCK_OFF, text) for text in ("a", "b")]
    assert most_useful(later) is later[1]
    assert most_useful([]) is None
