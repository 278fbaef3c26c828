"""How long a command waits for a cluster that does not answer, and what it prints meanwhile."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason

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
    _said_seconds: float = 0.0

    def is_over(self, answers: Mapping[str, ClusterError], known: set[str], waited: float) -> bool:
        """Whether to give up before the deadline; if not, it says now and then what is waited for.

        `answers` has each master's last error by its address, `known` the addresses of all masters;
        `waited` is in seconds.
        """
        silent = {a for a, e in answers.items() if e.reason is Reason.UNREACHABLE}
        if not self.answered and waited >= UNREACHABLE_SECONDS_MAX and known <= silent:
            return True
        if waited < SAY_SECONDS:
            self._said_seconds = 0.0
        elif not self._said_seconds or waited - self._said_seconds >= SAY_AGAIN_SECONDS:
            self._said_seconds = waited
            self.say(f"still waiting: {[*answers.values()][-1].message}")
        return False
