"""A kit's tokens: whose key signs them, how long they are valid, and what the cluster is asked."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.codec.ucan import TokenReader, open_envelope
from ipfs_cluster_node.codec.ucan_container import read_container, write_container
from ipfs_cluster_node.config.credentials import IDENTITY_NAME
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.config.profiles import Profile
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.profiles import PRODUCT
from ipfs_cluster_node.core.views import CallerStatus, ListedDelegation
from ipfs_cluster_node.kit.results import ErrorType, KitError
from ipfs_cluster_node.kit.tokens import LIFETIME, signed_token, verified
from tests.support.ucan import ALICE, BOB, CLUSTER, Actor

SECOND = timedelta(seconds=1)
HOUR_S = 3600
READ, SUBMIT = Command("/task/read"), Command("/task/submit")


class Caller:
    """A client that holds delegations, and whose cluster answers `answer`."""

    def __init__(self, folder: Path) -> None:
        self.identity = Identity.create()
        self.itself = Actor(self.identity.private_key)
        self.delegations: list[ListedDelegation] = []
        self.asked: list[str] = []
        self.answer: bool | ClusterError = True
        files = {"ca": folder / "ca", "certificate": folder / "c", "key": folder / "k"}
        self.profile = Profile(endpoints=(), **files)
        write_private(folder / IDENTITY_NAME, self.identity.pem())

    def holds(self, command: str, issuer: Actor = CLUSTER, *, seconds: int = HOUR_S) -> bytes:
        """Give it a delegation, by the cluster or by another client, which has it too."""
        if issuer is not CLUSTER:
            self._add(command, CLUSTER, issuer, 100 * HOUR_S)
        return self._add(command, issuer, self.itself, seconds)

    def _add(self, command: str, issuer: Actor, audience: Actor, seconds: int) -> bytes:
        expires_s = now_s() + seconds
        token = issuer.delegates(audience, command, expires_s=expires_s)
        self.delegations.append(
            ListedDelegation(
                issuer=issuer.did,
                audience=audience.did,
                command=command,
                expires_at_ms=expires_s * 1000,
                token=token,
            )
        )
        return token

    def signs(self, *commands: Command) -> tuple[str, int]:
        client: Any = self
        return signed_token(client, self.profile, BOB.did, commands, SECOND)

    def says(self, container: str) -> tuple[bool, str]:
        client: Any = self
        return verified(client, BOB.did, container, SECOND)

    # As the client.

    def get_caller(self, *, timeout: timedelta) -> CallerStatus:
        return CallerStatus(cluster_did=CLUSTER.did, delegations=tuple(self.delegations))

    def explain_access(self, method: str, _request: bytes, **_asked: Any) -> Any:
        self.asked.append(method.rpartition("/")[2])
        if isinstance(self.answer, ClusterError):
            raise self.answer
        return CallerAnswer(self.answer)


class CallerAnswer:
    def __init__(self, allowed: bool) -> None:  # noqa: FBT001
        self.allowed = allowed


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def now_s() -> int:
    return SYSTEM_CLOCK.wall_ms() // 1000


def container_of(*tokens: bytes) -> str:
    return write_container(tokens)


def opened(container: str) -> Iterable[Any]:
    reader = TokenReader(PRODUCT)
    for token in read_container(container, profile=PRODUCT):
        yield reader.delegation(open_envelope(token, profile=PRODUCT))


def test_a_token_has_a_delegation_for_each_command_and_what_it_stands_on(caller: Caller) -> None:
    wide, other = caller.holds("/task"), caller.holds("/content")
    container, _ = caller.signs(READ, SUBMIT)
    found = [(each.issuer, each.audience, str(each.command)) for each in opened(container)]
    itself = caller.identity.did
    assert sorted(found) == sorted(
        [
            (itself, BOB.did, READ),
            (itself, BOB.did, SUBMIT),
            (CLUSTER.did, itself, "/task"),
        ]
    )
    held = read_container(container, profile=PRODUCT)
    assert wide in held
    assert other not in held


def test_nobody_passes_on_what_it_was_not_delegated(caller: Caller) -> None:
    caller.holds("/task/read")
    caller.holds("/task/submit/x")  # Narrower.
    for commands in ([SUBMIT], [READ, SUBMIT]):
        with pytest.raises(KitError, match="/task/submit") as refused:
            caller.signs(*commands)
        assert refused.value.error_type is ErrorType.PERMISSION


@pytest.mark.parametrize(
    ("issuer", "lasts"), [(CLUSTER, LIFETIME.total_seconds()), (ALICE, HOUR_S)]
)
def test_a_token_outlasts_only_what_the_cluster_renews(
    caller: Caller, issuer: Actor, lasts: float
) -> None:
    caller.holds("/task", issuer)
    began_s = now_s()
    container, expires_s = caller.signs(READ)
    assert 0 <= expires_s - began_s - lasts <= now_s() - began_s + 1
    [own] = [each for each in opened(container) if each.audience == BOB.did]
    assert own.expires_s == expires_s
    # Who has it from another shows that one's too.
    assert len(list(opened(container))) == (2 if issuer is CLUSTER else 3)


def test_of_a_token_for_another_or_of_none_the_cluster_is_not_asked(caller: Caller) -> None:
    for container, words in (
        ("forged", "not a token"),
        (container_of(CLUSTER.delegates(ALICE, "/task/read")), "for another"),
        (container_of(CLUSTER.delegates(BOB, "/node")), "can't be checked"),
    ):
        ok, why = caller.says(container)
        assert not ok
        assert words in why
    assert caller.asked == []


def test_what_the_cluster_says_of_a_token_is_the_answer(caller: Caller) -> None:
    container = container_of(CLUSTER.delegates(BOB, "/task/submit"))
    assert caller.says(container) == (True, "")
    caller.answer = False
    assert caller.says(container)[0] is False
    caller.answer = ClusterError(Reason.CALLER_UNKNOWN, "it is no member")
    assert caller.says(container) == (False, "it is no member")
    assert caller.asked == ["SubmitTask"] * 3


@pytest.mark.parametrize("reason", [Reason.NO_LEADER, Reason.DEADLINE_EXCEEDED])
def test_silence_of_the_cluster_says_nothing_of_a_token(caller: Caller, reason: Reason) -> None:
    caller.answer = ClusterError(reason, "no answer")
    with pytest.raises(ClusterError) as raised:
        caller.says(container_of(CLUSTER.delegates(BOB, "/task/read")))
    assert raised.value.reason is reason
