"""Joiners that need approval."""

from dataclasses import replace
from typing import Final

from ipfs_cluster_node.core.commands import DecideJoiner, RedeemJoinToken
from ipfs_cluster_node.core.effects import Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import Joiner, JoinToken

JOINERS_PER_TOKEN_MAX: Final = 16
"""So that the holder of a token can't fill the log with identities."""


def judge(token: JoinToken, command: RedeemJoinToken) -> Rejected | None:
    """The answer to a joiner that presented its token before; None if it may proceed, or is new."""
    known, shown = _joiner(token, command), (command.name, command.endpoints)
    if known is None or known.approved:
        return None if known is None or (known.name, known.endpoints) == shown else _CHANGED
    return _PENDING if known.approved is None else _REJECTED


def await_decision(
    token: JoinToken, command: RedeemJoinToken, at_ms: int
) -> tuple[JoinToken, Rejected | None]:
    """Add a new joiner; returns the updated token, and why the joiner is not admitted yet."""
    if _joiner(token, command) is not None:
        return token, judge(token, command)
    if len(token.joiners) >= JOINERS_PER_TOKEN_MAX:
        return token, Rejected(
            Reason.TOKEN_USED, "too many wait with this token; have a new one made"
        )
    joiner = Joiner(command.did, command.name, command.endpoints, at_ms)
    return replace(token, joiners=(*token.joiners, joiner)), _PENDING


def decide(token: JoinToken, command: DecideJoiner) -> JoinToken | None:
    """The token after a decision; None if no joiner with that identity waits."""
    if all(joiner.did != command.did for joiner in token.joiners):
        return None
    return replace(
        token,
        joiners=tuple(
            replace(joiner, approved=command.approved) if joiner.did == command.did else joiner
            for joiner in token.joiners
        ),
    )


def let_in(token: JoinToken, command: RedeemJoinToken) -> JoinToken:
    """The token after its joiner became a member."""
    joiners = tuple(joiner for joiner in token.joiners if joiner.did != command.did)
    return replace(token, dids=(*token.dids, command.did), joiners=joiners)


def _joiner(token: JoinToken, command: RedeemJoinToken) -> Joiner | None:
    return next((joiner for joiner in token.joiners if joiner.did == command.did), None)


_PENDING: Final = Rejected(
    Reason.APPROVAL_PENDING, "somebody has to let this joiner in, with `node approve`"
)
_REJECTED: Final = Rejected(Reason.JOIN_REJECTED, "this joiner was refused with `node reject`")
_CHANGED: Final = Rejected(
    Reason.INVALID_ARGUMENT,
    "the joiner was approved under another name or other addresses; join as it was shown",
)
