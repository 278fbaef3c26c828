"""Lets a master continue alone when too many others are lost for good to ever elect a leader.

No majority agrees to this: the operator asserts that the others never return. So they are removed,
and this master takes a new voter's name, for which none of their votes are valid.
"""

import asyncio
import logging
from typing import Final

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.sealing import SealKey, open_data_key
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.restore import Stored, create_store_of, read_store
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.cluster.peers import save_masters
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.config.home import REPLACED_LOG_PREFIX, Home
from ipfs_cluster_node.core.certificates import Authority
from ipfs_cluster_node.core.commands import (
    CommandBody,
    LogCommand,
    ProposeConfig,
    RemoveNode,
    ReplaceLog,
)
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, node_id_of_voter, voter_id
from ipfs_cluster_node.core.model import Principal
from ipfs_cluster_node.core.settings import DELETION_PAUSED
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.disaster.passphrase import (
    leave_recovery_key,
    master_settings,
    open_by_passphrase,
)
from ipfs_cluster_node.node.files import load_files
from ipfs_cluster_node.node.health_calls import masters_that_run
from ipfs_cluster_node.node.log_replacement import (
    begun_replacement,
    forget_replacement,
    put_log,
    settle_log,
)

log = logging.getLogger(__name__)

RESTORE: Final = "restore a backup: ipfs-cluster-node recover cluster"


FOLLOWED_SECONDS: Final = 1.5
"""How long another master may still take this one, which led just now, for its leader."""


class Survivor:
    """A surviving master, while it does not run."""

    def __init__(self, home: Home, *, old_copy: bool = False, clock: Clock = SYSTEM_CLOCK) -> None:
        """Read the whole log of a locked home; `go_on_alone` changes it.

        `old_copy` accepts a whole log that was to be replaced: it lacks later entries.

        Raises:
            ClusterError: CONFIG_INVALID on a node that is not a master; HOME_DAMAGED for a log
                that is damaged or empty; MEMBER_NOT_FOUND for a master that was removed.
        """
        self._home, self._old_copy, self._clock = home, old_copy, clock
        self._cluster_id = master_settings(home).cluster.id
        identity = Identity.load(home.identity)
        self.node_id: NodeId = identity.node_id
        self._did = identity.did
        self._machine = ReplicatedStateMachine()
        self.stored = self._read()
        state = self.state
        if not state.cluster_id:
            raise ClusterError(
                Reason.HOME_DAMAGED,
                "this master never got the cluster's log; run this on another master that is left, "
                f"or {RESTORE}",
            )
        me = state.members.node(self.node_id)
        if me is None or me not in set(state.members.masters()):
            raise ClusterError(
                Reason.MEMBER_NOT_FOUND,
                "this master was removed from the cluster; run this on another that is left, or "
                f"{RESTORE}",
            )
        self._me = me
        self.others: tuple[Principal, ...] = tuple(
            sorted((m for m in state.members.masters() if m.did != me.did), key=lambda m: m.name)
        )
        """The masters that will be removed for good."""

    @property
    def state(self) -> ClusterState:
        """The state as of the end of the log."""
        return self._machine.state

    @property
    def is_alone(self) -> bool:
        """Whether this is the only master already."""
        return not self.others and self.stored.voters == {self.stored.voter}

    @property
    def needs_passphrase(self) -> bool:
        """Whether this master can't open the cluster's keys without it."""
        authority = self.state.certificates.authority
        return bool(authority.key_id) and not self._opens(authority)

    async def check_others(self) -> list[Principal]:
        """Check that none of the others leads or follows; returns those that run nevertheless.

        Raises:
            ClusterError: INVALID_ARGUMENT if the cluster has a leader: it needs no recovery.
        """
        tls = load_files(self._home).tls
        for last in (False, False, True):
            heard = await masters_that_run(self.others, tls)
            for each in heard:
                if each.leader and (last or each.leader != self.node_id):
                    raise ClusterError(
                        Reason.INVALID_ARGUMENT,
                        f"{each.master.name} ({each.master.node_id}) runs, and {each.leader} "
                        "leads: the cluster is not lost; start this master with `serve`",
                    )
            if not any(each.leader for each in heard):
                break
            await asyncio.sleep(FOLLOWED_SECONDS)
        return [each.master for each in heard]

    def go_on_alone(self, passphrase: str = "") -> None:
        """Make this master the only one. A crash leaves its old log in place, or the new one.

        Raises:
            ClusterError: AUTHORITY_SEALED for a wrong passphrase, or none if `needs_passphrase`;
                nothing is changed then.
        """
        if self.needs_passphrase:
            self._open_by(passphrase)
        if not self.is_alone:
            pause_deletion(self.state, clock=self._clock)
            for other in self.others:
                apply_alone(self.state, RemoveNode(node_id=other.node_id), clock=self._clock)
            present = self._me.incarnation
            [incarnation] = apply_alone(
                self.state,
                ReplaceLog(node_id=self.node_id, incarnation=present),
                clock=self._clock,
            )
            put_log(
                self._home,
                lambda disk: create_store_of(
                    disk,
                    voter_id(self.node_id, int(incarnation)),
                    self._machine,
                    index=self.stored.index,
                    term=self.stored.term + 1,
                ),
                aside=REPLACED_LOG_PREFIX,
                now=self._clock.wall(),
            )
            log.warning("continuing alone", extra={"without": [o.node_id for o in self.others]})
        # Otherwise each start would first call the masters that are gone.
        save_masters(self._home.masters, {self.node_id: self._me.endpoints})
        forget_replacement(self._home)

    def _read(self) -> Stored:
        settle_log(self._home)
        try:
            if begun_replacement(self._home) is not None and not self._old_copy:
                raise LogDamagedError(
                    "its replacement was begun, and has not ended; where all that are left say so, "
                    "--old-copy goes on with one that is whole, and lacks only what came after it"
                )
            stored = read_store(DirectoryDisk(self._home.raft), self._machine)
            if node_id_of_voter(stored.voter) != self.node_id:
                raise LogDamagedError("it is another node's")
        except LogDamagedError as error:
            raise ClusterError(
                Reason.HOME_DAMAGED,
                f"{error.message}; run this on another master that is left, or {RESTORE}",
            ) from error
        return stored

    def _opens(self, authority: Authority) -> bool:
        """Whether a start would open the keys: with the key left by `recover keys`, or its own."""
        own, left = (
            SealKey.load(path) if path.exists() else None
            for path in (self._home.seal_key, self._home.recovery_key)
        )
        try:
            open_data_key(
                authority,
                wrapped=authority.wrap_of(self._did),
                cluster_id=self._cluster_id,
                seal_key=own,
                recovery=left,
            )
        except ClusterError:
            return False
        return True

    def _open_by(self, passphrase: str) -> None:
        if not passphrase:
            raise ClusterError(
                Reason.AUTHORITY_SEALED,
                "this master can't open the cluster's keys, and no other one is left to seal them "
                "to it: give the recovery passphrase with --passphrase-file",
            )
        authority = self.state.certificates.authority
        key, _ = open_by_passphrase(authority, passphrase, cluster_id=self._cluster_id)
        leave_recovery_key(self._home, key)


def pause_deletion(state: ClusterState, *, clock: Clock) -> None:
    """Have every master keep its blocks: an older log may not name files that only they have.

    It is in the log, so that it binds those too that join later with blocks of their own.
    """
    apply_alone(state, ProposeConfig(values={DELETION_PAUSED: "1"}, with_version=True), clock=clock)


def apply_alone(state: ClusterState, body: CommandBody, *, clock: Clock) -> tuple[str, ...]:
    """Apply a command without a majority; returns the ids it created."""
    outcome = state.apply(LogCommand(at_ms=clock.wall_ms(), body=body)).outcome
    if isinstance(outcome, Rejected):
        raise ClusterError(outcome.reason, outcome.message)
    assert isinstance(outcome, Accepted)
    return outcome.ids
