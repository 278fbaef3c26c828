"""One voter: guarded PySyncObj, journal, snapshots, proposals. No task, no thread, no socket.

Its driver calls, in this order: `receive` for each message; `begin_step`; `Step.write`, which
blocks, in a thread; `end_step`, which returns the messages, and tells the results, that depend on
the write. So nothing is sent before what it depends on is durable (raft hazard H7). A leader's
entries depend on nothing of this step: `Step.appends` may be sent while its own disk still writes
them, since it counts itself only with the next tick, after the write. The drivers are the replica,
in a task, and the simulation, with a clock, a network and disks of its own.

Only this module and `snapshots.py` know what runs the elections and the replication.
"""

import logging
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.adapters.raft.applying import Applier
from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import Disk
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.guarded.voter import GuardedSyncObj
from ipfs_cluster_node.adapters.raft.journal import NO_OP, SegmentedJournal
from ipfs_cluster_node.adapters.raft.messages import Outbox, decode_message
from ipfs_cluster_node.adapters.raft.proposals import Proposal, Proposals
from ipfs_cluster_node.adapters.raft.segments import has_journal
from ipfs_cluster_node.adapters.raft.snapshot import open_snapshot
from ipfs_cluster_node.adapters.raft.snapshots import Snapshots
from ipfs_cluster_node.adapters.raft.snapshotting import use_stored_state
from ipfs_cluster_node.adapters.raft.staleness import Staleness
from ipfs_cluster_node.adapters.raft.state_machine import StateMachine
from ipfs_cluster_node.adapters.raft.step import Step
from ipfs_cluster_node.adapters.raft.store import stored_voter
from ipfs_cluster_node.adapters.raft.witness import Mark, Note, Witness
from ipfs_cluster_node.core.errors import ClusterError, Leader, Reason
from ipfs_cluster_node.core.ids import NodeId, VoterId, node_id_of_voter
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

NO_TICK: Final = frozenset({"append_entries", "next_node_idx"})
"""Kinds of messages that need no tick, unless the leader says so: their effect is complete."""

TICK_SHARE: Final = 0.5
"""Fraction of `tick_interval` after which a step ticks even with nothing to do."""


@dataclass(slots=True)
class _Transfer:
    target: VoterId
    until: float
    asked: bool = False


class Engine:
    """This node's copy of the log, and its vote."""

    def __init__(
        self,
        *,
        disk: Disk,
        machine: StateMachine,
        config: RaftConfig,
        before: "Engine | None" = None,
        notes: Disk | None = None,
    ) -> None:
        """Open the store and restore the state machine, which is empty, or that of `before`.

        `before` is the engine that this process had open until its disk failed: what it had synced
        must be there, and what it has applied is not applied again. `notes` is the disk of the note
        of how far voters have come; apart from the store, so that a backup of the store that is put
        back does not bring an old note with it.

        Raises:
            LogDamagedError: The store is not whole, or missing, or an old copy.
            ClusterError: RELEASE_TOO_OLD.
        """
        voter, snapshot = stored_voter(disk), open_snapshot(disk)
        if voter is None or snapshot is None or not has_journal(disk):
            raise LogDamagedError("it is lost, or a part of it")
        self.voter = voter
        self._config = config
        self._tick_seconds = TICK_SHARE * config.tick_interval.total_seconds()
        self.proposals = Proposals(
            voter,
            waiting_max=config.proposals_waiting_max,
            batch_bytes_max=config.batch_bytes_max,
            batch_commands_max=config.batch_commands_max,
        )
        applied_index: int = 0 if before is None else before.applier.index
        with closing(snapshot):
            position = snapshot.position
            if before is None or position.index > applied_index:
                use_stored_state(machine, snapshot)
                applied_index = position.index
        self.applier: Applier = Applier(machine, applied_index, self.proposals.take_results)
        self.journal: SegmentedJournal = SegmentedJournal(
            disk,
            base=(NO_OP, position.index, position.term),
            base_voters=position.voters,
            segment_bytes_max=config.segment_bytes_max,
            synced_at_least=(0, 0) if before is None else before.journal.synced,
        )
        self._notes = notes
        self._witness = Witness(notes)
        self._raft = GuardedSyncObj(
            voter=voter,
            witness=self._witness,
            journal=self.journal,
            config=config,
            apply_entry=self.applier.apply,
            on_snapshot_needed=self._offer_snapshot,
        )
        self._raft.skip_to(position.index)
        self._check_own_mark()
        # Bound here: methods of this class would cost one more call per message.
        self.arrived = self._raft.arrived
        self.connected = self._raft.connected
        self.claim = self._raft.claim
        self.add_learner = self._raft.add_learner
        self.match_index = self._raft.match_index
        self._snapshots = Snapshots(
            disk=disk,
            applier=self.applier,
            journal=self.journal,
            raft=self._raft,
            config=config,
            index=position.index,
        )
        self.take_snapshot = self._snapshots.take
        self.snapshot_taken = self._snapshots.taken
        self.snapshot_failed = self._snapshots.failed
        self.position = self._snapshots.position
        self._transfer: _Transfer | None = None
        self._was_leader = False
        self._tick_held = False
        self._tick_at = -math.inf
        self._slice_cut = False
        self._in_step = False
        """Whether a step has begun whose write is not known to have ended."""
        self.on_leadership: Callable[[bool, int], None] = lambda _leads, _term: None
        """Called with whether this node leads now, and the term, on a change; must not raise."""
        if before is not None:
            self.on_leadership = before.on_leadership
            # No leader was heard since: what was missing still is.
            self._raft.staleness = before.staleness
        self.staleness: Staleness = self._raft.staleness

    def _check_own_mark(self) -> None:
        claim, noted = self._raft.claim(), self._witness.of(self.voter)
        if claim.falls_short_of(noted):
            raise LogDamagedError(
                f"it is an old copy: it ends with {claim}, and went to {noted} before; put the "
                "newer one back if there is one"
            )

    # What other voters are known to have.

    def mark_of(self, voter: VoterId) -> Mark:
        """How far a voter is known to have come; a later claim must not fall short of it."""
        return self._witness.of(voter)

    def admit(self, voter: VoterId, claim: Mark, known: Mark) -> None:
        """Let a voter that connected take part, if its log, up to `claim`, is what it was.

        `known` is `mark_of` it, from before it made the claim.

        Raises:
            ClusterError: LOG_ROLLED_BACK.
        """
        if claim.falls_short_of(known):
            log.error(
                "refuses an old copy of a voter",
                extra={"peer": voter, "claim": str(claim), "known": str(known)},
            )
            raise ClusterError(
                Reason.LOG_ROLLED_BACK,
                f"it is an old copy: it ends with {claim}, and was known by "
                f"{node_id_of_voter(self.voter)} to go to {known}",
            )
        self._raft.admitted(voter, claim)

    def last_note(self) -> Note | None:
        """The last note of a node that stops; None if a write may still be under way."""
        if self._in_step or self.journal.dirty:
            return None
        self._witness_self()
        return self._witness.note(self._remembered, now())

    @property
    def _remembered(self) -> frozenset[VoterId]:
        return self.voters | self._raft.learners | {self.voter}

    def _witness_self(self) -> None:
        own = self._raft.own_mark()
        self._witness.saw_entry(self.voter, own.index, own.entry_term)
        self._witness.saw_term(self.voter, own.term)

    # What is known here.

    @property
    def is_leader(self) -> bool:
        """Whether this node leads, as far as it knows, and has applied all of earlier terms."""
        return self._raft.serves

    @property
    def leads(self) -> bool:
        """Whether this node was elected and has not stepped down."""
        return self._raft.leads

    @property
    def leads_for_sure(self) -> bool:
        """Whether no other node can lead now, so that a read here is linearizable."""
        return now() < self._raft.lease_until

    @property
    def leader(self) -> NodeId | None:
        """The leader, as far as this node knows."""
        voter = self._raft.known_leader()
        return None if voter is None else node_id_of_voter(voter)

    @property
    def term(self) -> int:
        """The current term."""
        return int(self._raft.current_term())

    @property
    def voters(self) -> frozenset[VoterId]:
        """The voters of the newest configuration in the log."""
        return self.journal.voters()

    @property
    def peers(self) -> frozenset[VoterId]:
        """The other voters, and the learners."""
        return self._raft.others | self._raft.learners

    @property
    def learners(self) -> frozenset[VoterId]:
        """Nodes that get the log from this leader and do not vote."""
        return frozenset(self._raft.learners)

    @property
    def reachable(self) -> frozenset[VoterId]:
        """Peers that messages can be sent to."""
        return self._raft.reachable

    @property
    def can_change_voters(self) -> bool:
        """Whether the last change, and this term's first entry, are committed (hazard H12)."""
        return self._raft.can_change_voters

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        return self._raft.commit_index

    @property
    def applied_index(self) -> int:
        """Highest index applied."""
        return self._raft.applied_index

    @property
    def age_seconds(self) -> float:
        """For how long committed entries may have been missing here, if this node does not lead."""
        return self._raft.age_seconds

    def check_leads(self) -> None:
        """Raise NOT_LEADER, naming the leader, or NO_LEADER unless this node takes writes."""
        if self._raft.leads and self._transfer is None:
            return
        leader = self.leader
        if leader is None or leader == node_id_of_voter(self.voter):
            raise ClusterError(Reason.NO_LEADER, "no master leads now; try again in a moment")
        raise ClusterError(
            Reason.NOT_LEADER,
            f"this node does not lead; ask {leader}",
            leader=Leader(leader),
        )

    # What callers ask for.

    def propose(self, proposal: Proposal) -> None:
        """Queue a command for the next batch.

        Raises:
            ClusterError: NOT_LEADER, NO_LEADER, OVERLOADED, PAYLOAD_TOO_LARGE.
        """
        self.check_leads()
        if len(proposal.command) > self._config.command_bytes_max:
            raise ClusterError(
                Reason.PAYLOAD_TOO_LARGE,
                f"a command has at most {self._config.command_bytes_max} bytes; send less at once",
            )
        self.proposals.put(proposal)

    def change_voters(self, operation: str, voter: VoterId) -> None:
        """Append a change of the configuration, `add` or `rem`; do nothing if it holds already.

        Raises:
            ClusterError: MEMBERSHIP_CHANGE_IN_PROGRESS, NOT_LEADER, NO_LEADER; QUORUM_AT_RISK for
                the removal of this node, which leads.
        """
        self.check_leads()
        if (voter in self.voters) == (operation == "add"):
            return
        if voter == self.voter:
            raise ClusterError(
                Reason.QUORUM_AT_RISK,
                "the leader can't remove itself; make another master the leader first: "
                "ipfs-cluster-node cluster transfer-leadership",
            )
        if not self._raft.can_change_voters:
            raise ClusterError(
                Reason.MEMBERSHIP_CHANGE_IN_PROGRESS,
                "another change of the masters is not committed yet; try again later",
            )
        self._raft.change_voters(operation, voter)

    def transfer_leadership(self, target: VoterId) -> None:
        """Begin to hand over; writes are refused until another node leads, or time is up.

        Raises:
            ClusterError: NOT_LEADER, NO_LEADER, MEMBER_NOT_FOUND if it does not vote.
        """
        self.check_leads()
        if target == self.voter or target not in self.voters:
            raise ClusterError(
                Reason.MEMBER_NOT_FOUND, f"{node_id_of_voter(target)} is not another voting master"
            )
        until = now() + self._config.election_timeout_max.total_seconds()
        self._transfer = _Transfer(target, until)

    # The step.

    def receive(self, sender: VoterId, message: pb.RaftMessage) -> None:
        """Handle a peer's message. `take_snapshot` loads a snapshot that it completes.

        Raises:
            OSError: The disk failed: the engine must not be used again.
        """
        decoded = decode_message(message)
        if decoded is not None:
            self._raft.receive(sender, decoded)
            if decoded["type"] not in NO_TICK:
                self._tick_at = -math.inf
            return
        match message.WhichOneof("kind"):
            case "snapshot_chunk":
                self._snapshots.receive_chunk(sender, message)
            case "snapshot_result":
                self._snapshots.receive_result(sender, message)
            case _:
                log.warning("malformed raft message dropped", extra={"sender": sender})

    def can_wait(self, sender: VoterId, message: pb.RaftMessage) -> bool:
        """Whether a message need not be received before the next step: nothing waits for it.

        It acknowledges the last entry, which is committed already.
        """
        return self._transfer is None and self._raft.is_late(sender, message)

    def begin_step(self) -> Step:
        """Tick, and propose what waits; returns what must be written.

        It ticks only if that has something to do, or the last tick is some time ago: a tick costs
        as much as a message. A follower that has something to write ticks with the next step, which
        follows at once. A batch that ends here is answered before the next step begins another.
        """
        moment = now()
        was_under_way = self.proposals.under_way
        if self._tick_due(moment):
            if self.journal.dirty and not self._raft.leads and not self._tick_held:
                # The leader waits for this write; nothing waits for a follower to apply entries.
                self._tick_held = True
                return self._step(moment)
            self._tick_held = False
            self._tick_at = moment + self._tick_seconds
            self._raft.tick()
            self._slice_cut = self._raft.applied_index < self._raft.commit_index
            self._hand_over()
        waits = self.proposals.waits and self._transfer is None
        if waits and not was_under_way and self._raft.leads:
            entry = self.proposals.next_entry(self.term)
            if entry is not None:
                self._raft.append(entry)
        return self._step(moment)

    def _tick_due(self, moment: float) -> bool:
        if self._tick_held or self._slice_cut or moment >= self._tick_at:
            return True
        # Nothing waits for a follower to apply entries; a leader commits, and then answers.
        if not self._raft.leads:
            return False
        return self._raft.needs_tick or self._transfer is not None or len(self.voters) == 1

    def _step(self, moment: float) -> Step:
        pending = self.journal.take_pending() if self.journal.dirty else None
        appends = self._raft.take_appends()
        note = None
        if self._witness.may_note(moment):
            self._witness_self()
            if self._witness.is_due(moment):
                note = self._witness.note(self._remembered, moment)
        self._in_step = True
        return Step(self.journal, pending, appends, self._snapshots.take_sync(), note)

    def end_step(self) -> Outbox:
        """Tell the results and return the messages, now that all they depend on is durable."""
        self._in_step = False
        outbox = self._raft.take_outbox()
        for _, message in outbox:
            if message.term == 0:
                message.term = self.term
        self._watch_leadership()
        for proposal, result in self.proposals.take_done():
            proposal.on_done(result)
        return outbox

    @property
    def has_work(self) -> bool:
        """Whether the next step should follow at once."""
        if self._tick_held or self._slice_cut:
            return True
        if not self._raft.leads:
            return False
        # A voter that is alone gets no answer: the next tick commits what was just synced.
        if len(self.voters) == 1 and self.proposals.under_way:
            return True
        # While it hands over, it takes no proposal: acknowledgements and the beat drive that.
        waits = self.proposals.waits and self._transfer is None
        return waits and not self.proposals.under_way

    def disk_hangs(self, seconds: float) -> None:
        """Stop leading, since a write of the log takes longer than a leader may be silent.

        The others elect another leader meanwhile, and callers that wait here would only learn of it
        once the write ends. A voter that is alone keeps leading. May be called within a step.
        """
        if self._raft.leads and len(self.voters) > 1:
            log.warning(
                "stops leading: the disk has not ended a write of the log",
                extra={"seconds": round(seconds, 1)},
            )
            self.stop_leading()

    def stop_leading(self) -> None:
        """Stop leading, and answer all callers that wait here."""
        if self._raft.leads:
            self._raft.step_down()
        self.give_up()
        self._watch_leadership()

    def give_up(self) -> None:
        """Answer all callers that wait: this engine stops, or no longer leads."""
        self.proposals.give_up()
        for proposal, result in self.proposals.take_done():
            proposal.on_done(result)

    def close(self) -> None:
        """Close all files."""
        self._snapshots.forget_offers()
        self._raft.destroy()
        if self._notes is not None:
            self._notes.close()

    def _offer_snapshot(self, peer: VoterId) -> None:
        self._snapshots.offer(peer)

    def _hand_over(self) -> None:
        transfer = self._transfer
        if transfer is None:
            return
        if not self._raft.leads:
            self._transfer = None
        elif now() > transfer.until:
            self._transfer = None
            if transfer.asked:
                # The target may still campaign, and win although this node is heard.
                self._raft.step_down()
        elif (
            not transfer.asked
            and not self.proposals.under_way
            and self._raft.match_index(transfer.target) == self.journal.last_index
        ):
            transfer.asked = True
            self._raft.hand_over(transfer.target)

    def _watch_leadership(self) -> None:
        leads = self._raft.leads
        self.proposals.fail_lost(term=self.term, leads=leads)
        leads = leads and self._raft.serves
        if leads == self._was_leader:
            return
        self._was_leader = leads
        log.info("leadership changed", extra={"leads": leads, "term": self.term})
        self._snapshots.forget_offers()
        self.on_leadership(leads, self.term)
