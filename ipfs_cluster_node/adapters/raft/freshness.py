"""How old the state of a node that does not lead may be."""


class Freshness:
    """When this node last had all that a leader had called committed.

    Times are seconds of a monotonic clock.
    """

    def __init__(self, now: float) -> None:
        """Nothing was heard since the start: what is older is not known."""
        self._fresh_at = now
        self._told: tuple[int, float] | None = None
        """The oldest commit index that was told and is not applied yet, and when it was told."""

    def told(self, commit_index: int, *, applied_index: int, now: float) -> None:
        """A leader says up to where the log is committed."""
        self._look(applied_index)
        if self._told is None:
            self._told = (commit_index, now)

    def age(self, *, applied_index: int, now: float) -> float:
        """For how many seconds what was committed may be missing here."""
        self._look(applied_index)
        return now - self._fresh_at

    def _look(self, applied_index: int) -> None:
        if self._told is not None and applied_index >= self._told[0]:
            self._fresh_at = self._told[1]
            self._told = None
