"""The policies that our own tools may sign: those that only narrow, without pitfalls.

A negative statement is true if its field is absent, an empty `or` is always true, and `team-a*`
matches `team-a-evil`. The validator evaluates them as specified; nobody should write them.
"""

from collections.abc import Iterator
from typing import Final

from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.globs import Glob
from ipfs_cluster_node.core.ucan.policies import (
    Compares,
    Connects,
    Equals,
    Like,
    Not,
    Policy,
    Quantifies,
    Statement,
)

DELIMITER: Final = "/"
"""Between the segments of namespaces, keys and paths; no name contains it."""


def check_mintable(policy: Policy) -> None:
    """Check that a policy may be signed by our tools.

    Raises:
        UcanError: InvalidClaim: it contains `!=`, `not`, `<`, `>`, an empty `and` or `or`, an
            optional selector, or a pattern with a star that is neither the whole of it nor
            after a slash.
    """
    for index, statement in enumerate(policy):
        for flaw in _flaws(statement):
            raise UcanError(Refusal.INVALID_CLAIM, f"statement {index} of the policy: {flaw}")


def _flaws(statement: Statement) -> Iterator[str]:
    match statement:
        case Not():
            yield "`not` holds where the field is absent"
            return
        case Connects(statements):
            if not statements:
                yield "an empty `and` or `or` holds always"
            for inner in statements:
                yield from _flaws(inner)
            return
        case Equals(negated=True):
            yield "`!=` is negative"
        case Compares(operator="<" | ">"):
            yield "use `<=` or `>=`"
        case Like(glob=glob) if not _ends_at_delimiters(glob):
            yield "a star follows a slash, or is the whole pattern"
        case Quantifies(statement=inner):
            yield from _flaws(inner)
    if any(segment.optional for segment in statement.selector):
        yield "an optional selector holds where the field is absent"


def _ends_at_delimiters(glob: Glob) -> bool:
    if glob.pieces == ("", ""):
        return True
    return all(piece.endswith(DELIMITER) for piece in glob.pieces[:-1])
