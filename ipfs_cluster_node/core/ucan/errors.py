"""Why a token or a chain is refused."""

from enum import StrEnum

from ipfs_cluster_node.core.multiformats import Cid


class Refusal(StrEnum):
    """Names of refusals: the first eight as in ucan-wg's fixtures, the rest ours."""

    INVALID_CLAIM = "InvalidClaim"
    """The claim is incomplete: no proof, a root without a subject, no expiry."""
    UNAVAILABLE_PROOF = "UnavailableProof"
    """The invocation names a delegation that the call does not carry."""
    EXPIRED = "Expired"
    TOO_EARLY = "TooEarly"
    INVALID_AUDIENCE = "InvalidAudience"
    """A link is for another audience, or the invocation for another executor."""
    INVALID_SUBJECT = "InvalidSubject"
    INVALID_SIGNATURE = "InvalidSignature"
    MATCH_ERROR = "MatchError"
    """A policy does not match the arguments."""

    INVALID_COMMAND = "InvalidCommand"
    """A link does not cover the command, or the call is another one."""
    REVOKED = "Revoked"
    REPLAY = "Replay"
    """The invocation was used already, or may have been."""
    MALFORMED = "Malformed"
    TOO_LARGE = "TooLarge"
    CHAIN_TOO_LONG = "ChainTooLong"


class UcanError(Exception):
    """A refusal, and the token that caused it."""

    def __init__(
        self, name: Refusal, detail: str, *, link: int | None = None, cid: Cid | None = None
    ) -> None:
        """Make a refusal.

        Args:
            name: Programs branch on it.
            detail: One plain clause; never contains text of a token.
            link: Which delegation of the chain, 0 being the root; None for the invocation,
                or if no single link is the cause.
            cid: The CID of the token that is the cause.
        """
        super().__init__(name, detail)
        self.name = name
        self.detail = detail
        self.link = link
        self.cid = cid

    def __str__(self) -> str:
        """Name, link, CID and detail in one line."""
        link = "" if self.link is None else f" at link {self.link}"
        token = "" if self.cid is None else f" ({self.cid})"
        return f"{self.name}{link}{token}: {self.detail}"

    def at(self, link: int | None, cid: Cid | None) -> "UcanError":
        """The same refusal, caused by this token."""
        return UcanError(self.name, self.detail, link=link, cid=cid)


def malformed(detail: str) -> UcanError:
    """A `Malformed` refusal."""
    return UcanError(Refusal.MALFORMED, detail)
