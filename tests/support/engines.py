"""What a test makes happen within an engine, and no caller of one can."""

from collections.abc import Callable

from ipfs_cluster_node.adapters.raft.engine import Engine


def campaign(engine: Engine) -> None:
    """Let a voter campaign with its next step."""
    engine._raft._campaign()


def pre_vote_round(engine: Engine) -> int:
    """The number of the newest pre-vote round."""
    return engine._raft.elections._round


def learn_term(engine: Engine, term: int) -> None:
    """Let a voter learn of a newer term."""
    engine._raft.step_down(term)


def count_ticks(engine: Engine) -> Callable[[], int]:
    """How often a voter has ticked from now on."""
    count, tick = 0, engine._raft.tick

    def counted() -> None:
        nonlocal count
        count += 1
        tick()

    engine._raft.tick = counted  # type: ignore[method-assign]
    return lambda: count
