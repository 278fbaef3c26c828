"""How stale the state of a node that does not lead may be."""


class Staleness:
    """When this node last had all that a leader had called committed.

    Times are seconds of a monotonic clock.
    """

    def __init__(self, now: float) -> None:
        """Begin at the start of the node: nothing older is known."""
        self._fresh_at = now
        self._told: tuple[int, float] | None = None
        """The oldest commit index that was announced and is not applied yet, and when."""

    def told(self, commit_index: int, *, applied_index: int, now: float) -> None:
        """Note up to which index a leader calls the log committed."""
        self._look(applied_index)
        if self._told is None:
            self._told = (commit_index, now)

    def age(self, *, applied_index: int, now: float) -> float:
        """For how many seconds committed entries may have been missing here."""
        self._look(applied_index)
        return now - self._fresh_at

    def _look(self, applied_index: int) -> None:
        if self._told is not None and applied_index >= self._told[0]:
            self._fresh_at = self._told[1]
            self._told = None
