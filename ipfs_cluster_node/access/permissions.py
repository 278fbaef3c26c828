"""What the caller of a call may do, by its class, its attempt or its delegations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Final

from ipfs_cluster_node.access.context import Caller
from ipfs_cluster_node.access.turns import current_turn
from ipfs_cluster_node.codec.errors import error_from_ucan
from ipfs_cluster_node.core.authorization import (
    CONTENT_ADD,
    TASK_SUBMIT,
    Args,
    ItemArgs,
    Requirement,
    alternatives,
)
from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import AttemptId, Task
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.ucan.access import Access
from ipfs_cluster_node.core.ucan.chain import ProvenClaim
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.policies import Evaluation

CALL_STEPS_MAX: Final = 10_000_000
"""Statements evaluated for all items of one call, in slices: some ten seconds."""
OWN_WORDS: Final = frozenset({CONTENT_ADD, TASK_SUBMIT})
"""Commands whose namespace is one that the request names."""
VERDICTS_CACHED_MAX: Final = 4096
"""Verdicts that a call caches: one for all items that its policies can't tell apart."""

_text_of: Final = lru_cache(maxsize=4096)(str)
"""Encoding a CID as text takes as long as deciding a call."""


@dataclass(frozen=True, slots=True)
class Unrestricted:
    """Permissions of a caller whose class suffices for the method, without a delegation."""

    caller: Caller
    delegation_cids: tuple[str, ...] = ()
    rights: None = None

    def allows(self, _item: ItemArgs) -> bool:
        """Everything."""
        return True

    def allows_under(self, _command: Command, _item: ItemArgs) -> bool:
        """Everything: nodes are part of the cluster."""
        return True

    async def renew(self) -> None:
        """Do nothing: its membership is checked elsewhere."""


@dataclass(frozen=True, slots=True)
class AttemptPermissions:
    """Permissions of a worker with one attempt: the files that its submitter may name."""

    caller: Caller
    attempt: AttemptId
    state: Callable[[], ClusterState]
    delegation_cids: tuple[str, ...] = ()

    @property
    def rights(self) -> frozenset[object]:
        """The attempt."""
        return frozenset({self.attempt})

    def allows(self, item: ItemArgs) -> bool:
        """Whether this is a file of the attempt."""
        inputs = {each.cid for each in self._task().spec.inputs}
        return all(args.get("cid") in inputs for args in alternatives(item))

    def allows_under(self, _command: Command, _item: ItemArgs) -> bool:
        """Nothing: it reads files only."""
        return False

    async def renew(self) -> None:
        """Check that the attempt still runs; raises ClusterError."""
        self._task()

    def _task(self) -> Task:
        tasks = self.state().tasks
        task = tasks.get(self.attempt.task_id)
        if task is None or not tasks.is_current(self.attempt, self.caller.node_id):
            raise ClusterError(
                Reason.STALE_ATTEMPT,
                f"attempt {self.attempt.attempt} of {self.attempt.task_id} does not run on "
                "this node, as far as is known here",
            )
        return task


@dataclass(slots=True)
class DelegatedPermissions:
    """Permissions of a caller that is authorized by delegations."""

    caller: Caller
    command: Command
    accesses: dict[Command, Access]
    find: Callable[[Command], Access]
    """Finds the access under a command; raises UcanError."""
    now_s: Callable[[], int]
    """The time that tokens are judged by, in seconds since 1970 (UTC)."""
    grants: list[ProvenClaim] = field(default_factory=list)
    cache_key: Callable[[], object] = object
    """All that the result depends on besides the time: equal while none of it changed."""
    renewed_key: object = None
    verdicts: dict[tuple[Value, ...], bool] = field(default_factory=dict)
    """Whether an item is allowed, by the values that the policies compare."""
    beside: dict[Command, tuple[Access, dict[tuple[Value, ...], bool]] | None] = field(
        default_factory=dict
    )
    """By a command that judges what an answer names besides: its access and verdicts; None if it
    allows nothing."""
    steps_left: int = CALL_STEPS_MAX

    @property
    def delegation_cids(self) -> tuple[str, ...]:
        """The last link of each chain that was used."""
        cids = [_text_of(grant.chain[-1].cid) for grant in self.grants if grant.chain]
        return tuple(cids) if len(cids) < 2 else tuple(dict.fromkeys(cids))

    @property
    def rights(self) -> frozenset[object] | None:
        """The delegations and who revoked them; None if one of them has no policies."""
        access = self.accesses[self.command]
        if access.unconditional is not None:
            return None
        revokers = access.context.revocations
        links = (link.cid for links in access.by_audience.values() for link in links)
        return frozenset((cid, revokers.get(cid)) for cid in links)

    def allows(self, item: ItemArgs) -> bool:
        """Whether an item with these arguments may be shown.

        Raises:
            ClusterError: DELEGATION_INVALID, where the policies take too long for so many items.
        """
        access = self.accesses[self.command]
        if access.unconditional is not None:
            return True
        if isinstance(item, tuple):
            return any(map(self.allows, item))
        return self._verdict(self.command, access, item, self.verdicts)

    def allows_under(self, command: Command, item: ItemArgs) -> bool:
        """Whether another command allows it; raises as `allows`."""
        if command not in self.beside:
            try:
                self.beside[command] = self.find(command), {}
            except UcanError:
                self.beside[command] = None
        known = self.beside[command]
        if known is None:
            return False
        access, verdicts = known
        return access.unconditional is not None or any(
            self._verdict(command, access, args, verdicts) for args in alternatives(item)
        )

    def _verdict(
        self, command: Command, access: Access, args: Args, verdicts: dict[tuple[Value, ...], bool]
    ) -> bool:
        kind = access.kind_of(args)
        known = verdicts.get(kind)
        if known is None:
            try:
                with self._steps(access) as evaluation:
                    known = access.allows(args, evaluation)
            except UcanError as error:
                if self.steps_left > 0:
                    known = False  # Its own check would be refused too.
                else:
                    raise error_from_ucan(error, command=command) from None
            if len(verdicts) < VERDICTS_CACHED_MAX:
                verdicts[kind] = known
        return known

    async def check(self, requirement: Requirement) -> None:
        """Check one requirement; raises ClusterError."""
        access = self.accesses.get(requirement.command)
        if access is None:
            access = self.accesses[requirement.command] = self._found(requirement.command)
        if access.unconditional is not None:
            self.grants.append(access.unconditional)
            return
        turn = current_turn()
        checked: set[tuple[Value, ...]] = set()
        args: Args = {}
        try:
            for item in requirement.each:
                args = item if isinstance(item, dict) else self._allowed(access, item)
                kind = access.kind_of(args)
                if kind not in checked:
                    checked.add(kind)
                    with self._steps(access) as evaluation:
                        self.grants.append(access.check(args, evaluation))
                if turn.over:
                    await turn.next()
        except UcanError as error:
            # Of what is submitted or added, its own words: those of others would tell of the state.
            named = args.get("namespace") if requirement.command in OWN_WORDS else None
            raise error_from_ucan(
                error,
                command=requirement.command,
                now_s=self.now_s(),
                namespace=str(named or ""),
            ) from None

    def _allowed(self, access: Access, item: tuple[Args, ...]) -> Args:
        """The first of the alternatives that is allowed; if none is, the first."""
        for args in item:
            with self._steps(access) as evaluation:
                if access.allows(args, evaluation):
                    return args
        return item[0]

    @contextmanager
    def _steps(self, access: Access) -> Iterator[Evaluation]:
        """The steps available to one item, out of those left for the call."""
        steps_max = min(access.context.profile.evaluation_steps_max, self.steps_left)
        evaluation = Evaluation(steps_max=steps_max)
        try:
            yield evaluation
        finally:
            self.steps_left -= steps_max - max(0, evaluation.steps_left)

    def _found(self, command: Command) -> Access:
        try:
            return self.find(command)
        except UcanError as error:
            raise error_from_ucan(error, command=command, now_s=self.now_s()) from None

    async def renew(self) -> None:
        """Find the accesses again, and check what they granted; raises ClusterError.

        Only if something changed: otherwise the tokens of thousands of streams would be verified
        twice a second.
        """
        self.steps_left = CALL_STEPS_MAX
        cache_key = self.cache_key()
        ends = (access.until_s for access in self.accesses.values())
        until_s = min((end for end in ends if end is not None), default=None)
        if cache_key == self.renewed_key and (until_s is None or self.now_s() < until_s):
            return
        self.accesses = {command: self._found(command) for command in self.accesses}
        self.verdicts.clear()
        self.beside.clear()
        grants, self.grants = self.grants, []
        for command, of_command in groupby(grants, lambda grant: grant.claim.command):
            await self.check(Requirement(command, (grant.claim.args for grant in of_command)))
        self.renewed_key = cache_key
