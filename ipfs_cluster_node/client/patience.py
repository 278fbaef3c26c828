"""How long a command waits for a cluster that does not answer, and what it prints meanwhile."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason, Trait

UNREACHABLE_SECONDS_MAX: Final = 3.0
"""How long a command waits if no known master accepts a connection, and none has answered before.

Programs wait until their deadline instead: the masters may be restarting."""
SAY_SECONDS: Final = 3.0
"""How long a command waits before it prints what it waits for."""
SAY_AGAIN_SECONDS: Final = 30.0


@dataclass(slots=True)
class Patience:
    """Decides when one connection gives up before its deadline, by the masters' answers so far."""

    say: Callable[[str], None]
    """Takes one line for the person who waits."""
    answered: bool = False
    """Whether any master has answered on this connection, if only by refusing."""
    _said_at: float | None = None
    """By the caller's clock; of all calls on this connection, so that short ones do not repeat."""

    def is_over(
        self, answers: Mapping[str, ClusterError], known: set[str], waited: float, now: float
    ) -> bool:
        """Whether to give up before the deadline; if not, it says now and then what is waited for.

        `answers` has each master's last error by its address, `known` the addresses of all masters;
        `waited` is in seconds since the call began, `now` in seconds by a monotonic clock.
        """
        silent = {a for a, e in answers.items() if e.reason is Reason.UNREACHABLE}
        if not self.answered and waited >= UNREACHABLE_SECONDS_MAX and known <= silent:
            return True
        told = self._said_at is not None and now - self._said_at < SAY_AGAIN_SECONDS
        if waited >= SAY_SECONDS and not told:
            self._said_at = now
            silence = all(error.reason.has(Trait.NO_ANSWER) for error in answers.values())
            last = [*answers.values()][-1]
            self.say(f"still waiting: {no_answer_at(known) if silence else cause_of(last)}")
        return False


def no_answer_at(addresses: Iterable[str]) -> str:
    """What is said while no master answers."""
    return f"no master answers at {', '.join(sorted(addresses))}"


def is_refused(error: ClusterError) -> bool:
    """Whether nothing listens at the address."""
    return "connection refused" in error.message.lower()


def cause_of(error: ClusterError) -> str:
    """An error's message, without gRPC's way to say that nothing listens."""
    return "connection refused" if is_refused(error) else error.message
