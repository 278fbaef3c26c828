"""Takes each guard of docs/consensus.md out of a copy of the project: its test must go red."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
RAFT: Final = "ipfs_cluster_node/adapters/raft"
COPIED: Final = ("ipfs_cluster_node", "tests", "scripts", "pyproject.toml")
GUARDS: Final[list[tuple[str, ...]]] = [
    ("H1 strip", "h1", "guarded/follower.py", "if journal.term_at(index) == term:"),
    ("H1 committed", "h1", "guarded/follower.py", "if index <= self.commit_index:"),
    ("H2 term", "h2", "guarded/voter.py", "if term == newest and self.leads", "if self.leads"),
    (
        "H2 stranger",
        "h2 or h4 or h22 or h14",
        "guarded/voter.py",
        "if kind in VOTER_ONLY",
        "if False",
    ),
    (
        "H3 verified",
        "h3",
        "guarded/outgoing.py",
        'message = {**message, "next_node_idx": self.verified_next}',
    ),
    ("H4 votes", "h4", "guarded/candidate.py", "if sender not in self._votes[1]:", "if True:"),
    (
        "H5 commit",
        "h5",
        "guarded/follower.py",
        'self.out._onMessageReceived(node, {**message, "commit_index": 0})\n            heard',
        "self.out._onMessageReceived(node, message)\n            heard",
    ),
    (
        "H6 ack",
        "h6",
        "guarded/outgoing.py",
        "return True  # Only a verified append is acknowledged (hazards H3, H6).",
        'self.verified_next = message["next_node_idx"]',
    ),
    (
        "H7 commit",
        "h7",
        "journal.py",
        "return self._entries[0][1]\n\n    def setCurrentTerm",
        "return self._entries[-1][1]\n\n    def setCurrentTerm",
    ),
    ("H7 frame", "journal", "segments.py", " if _crc(salt, number, records) == crc else None", ""),
    ("H10", "snapshot", "snapshot.py", " or self._crc_of_content() != snapshot_crc(file)", ""),
    (
        "H11 entry",
        "h11_a_malformed_entry_is_refused",
        "messages.py",
        "or not _is_entry(command):",
        "or command[:1] not in ENTRY_TYPES:",
    ),
    (
        "H11 skip",
        "h11_a_malformed_entry_in",
        "applying.py",
        "except ValueError:",
        "except ZeroDivisionError:",
    ),
    (
        "H12",
        "h12",
        "guarded/state.py",
        "self.commit_index >= self._journal.last_change_index()",
        "True",
    ),
    ("H12 queued", "h12", "guarded/state.py", "self._queued_change is None", "True"),
    ("H13", "h13", "guarded/state.py", "=config.fallback_timeout.total_seconds()", "=30.0"),
    (
        "H14 prevote",
        "h14",
        "guarded/candidate.py",
        "elif self._SyncObj__raftElectionDeadline < moment",
        "elif False",
    ),
    (
        "H14 sticky",
        "h14",
        "guarded/voter.py",
        'if message["transfer"] or not self._is_led()',
        "if True",
    ),
    (
        "H14 stale",
        "h14",
        "guarded/voter.py",
        "self.out.post(sender, pb.RaftMessage(term=newest, stale_term=pb.StaleTerm()))",
    ),
    ("H17 pickle", "h17", "guarded/library.py", "pysyncobj.syncobj.pickle = _NoPickle"),
    ("H21", "h21", "guarded/candidate.py", "if self._voter not in voters:"),
    ("H23", "whatever", "link.py", "except Exception as error:", "except OSError as error:"),
    ("H24", "h24", "guarded/leader.py", "after = next_index[node] = before"),
    (
        "H25 room",
        "h25",
        "inflights.py",
        "return self._of[voter].size_bytes < self._bytes_max",
        "return True",
    ),
    (
        "H25 old",
        "h25",
        "inflights.py",
        "return sent_at_ns < self._of[voter].begun_at_ns",
        "return False",
    ),
    (
        "snap needed",
        "is_offered_one",
        "guarded/leader.py",
        "self._on_snapshot_needed(VoterId(node.id))",
    ),
    (
        "snap haste",
        "is_offered_one",
        "guarded/leader.py",
        "if self._journal.first_index < after",
        "if 0 < after",
    ),
    (
        "H11",
        "raising_apply",
        "applying.py",
        "except Exception as error:",
        "except ZeroDivisionError as error:",
    ),
    ("H15 batch", "h15", "proposals.py", "if not (leads and self._batch_term == term):"),
    ("H15 waiting", "h15", "proposals.py", "if not leads:"),
    ("H7 note", "damaged_end", "journal.py", "if (last.number, last.frames) < self.synced:"),
    ("H18 rebase", "installed_snapshot", "journal.py", "if self.term_at(index) == term:"),
    ("frames epoch", "older_connection", "framing.py", "frame.epoch != self._epoch or ", ""),
    (
        "frames repeat",
        "repeated_or_replayed",
        "framing.py",
        " or frame.sequence <= self._sequence",
        "",
    ),
    ("frames gap", "missing_frame", "framing.py", "if frame.sequence != self._sequence + 1:"),
    (
        "frames damage",
        "mutated",
        "framing.py",
        "if _crc(frame.epoch, frame.sequence, frame.last, data) != frame.crc:",
    ),
    ("link of a learner", "learner_of_a_leader", "guarded/voter.py", "if learner in self._up:"),
    ("H26 index", "h26", "witness.py", "self.index < known.index or ", ""),
    ("H26 term", "h26", "witness.py", "or self.term < known.term", ""),
    ("H26 own", "h26", "engine.py", "self._check_own_mark()"),
    ("H26 admit", "h26", "engine.py", "if claim.falls_short_of(known):"),
    ("H26 stops", "h26", "replica_peers.py", "self._damage = LogDamagedError(error.message)"),
    ("H26 followers", "h26", "guarded/voter.py", "self._witness_followers()"),
    ("H26 told", "h26", "guarded/voter.py", 'self.witness.learn(message["marks"])'),
    ("H26 match", "h26", "guarded/leader.py", "match_index[node] = claim.index"),
    (
        "H27 command",
        "newer_release",
        "../../codec/commands.py",
        " or (kind is None and len(UnknownFieldSet(message)))",
        "",
    ),
    ("H27 format", "newer_release", "../../codec/commands.py", "message.format > FORMAT or ", ""),
    ("H27 snapshot", "whole_snapshot", "../../codec/snapshot.py", "if part.format > FORMAT:"),
    (
        "H27 stops",
        "newer_release or older_replica",
        "applying.py",
        "error.reason is Reason.RELEASE_TOO_OLD",
        "False",
    ),
    (
        "H27 received",
        "received_snapshot",
        "snapshotting.py",
        "if error.reason is Reason.RELEASE_TOO_OLD:",
    ),
    (
        "H28 place",
        "boots or another_process",
        "../../core/boots.py",
        "if UNKNOWN not in (boot, here) and boot != here:",
    ),
    (
        "H28 exchange",
        "another_process",
        "replica_peers.py",
        "self._boots.joined(peer, first.hello.boot)",
        "self._boots.joined(peer, UNKNOWN)",
    ),
    ("H28 free", "another_process", "replica_peers.py", "self._boots.left(peer)"),
    (
        "H28 members",
        "neither_registers",
        "../../cluster/members.py",
        "self.boots.check(node_id, boot)",
    ),
    (
        "H28 register",
        "neither_registers",
        "../../cluster/members.py",
        "self.boots.check(body.node_id, boot)",
    ),
    (
        "H28 session",
        "copied_worker",
        "../../cluster/worker_sessions.py",
        "self.boots.joined(node_id, first.hello.boot)",
        "self.boots.joined(node_id, 0)",
    ),
    (
        "H28 restart",
        "leader_was_away",
        "../../node/uplink.py",
        "refused_since = None\n                if not",
        "pass\n                if not",
    ),
    (
        "H28 only",
        "knows_itself or another_process",
        "../../core/boots.py",
        "heard.items() if each != boot), None)",
        "heard.items() if False), None)",
    ),
    (
        "H28 start",
        "before_it_serves",
        "../../node/parts/master.py",
        "await self._duplicates.check()",
    ),
    (
        "H28 later",
        "stopped_or_off",
        "../../node/duplicates.py",
        "if self._unheard and self._votes_alone():",
    ),
    ("H28 uplink", "only_voter", "../../node/uplink.py", "self._votes_alone() or ", ""),
]
"""Hazard, which tests must see it, file (from `RAFT`), what is there, and what is put in its place.

Without the last: a condition that is never met, or no statement.
"""


def is_missed(copy: Path, tests: str, file: str, there: str, instead: str | None = None) -> bool:
    """Whether a test fails once a guard is gone.

    Raises:
        ValueError: The guard is not in the file as it is written here.
    """
    if instead is None:
        instead = f"{there.partition(' ')[0]} False:" if there.endswith(":") else "pass"
    path = copy / RAFT / file
    source = path.read_text()
    if source.count(there) != 1:
        raise ValueError(f"{file} has changed: {there.strip().splitlines()[0]!r} is not there once")
    path.write_text(source.replace(there, instead))
    try:
        options = ("-q", "-x", "--timeout", "30", "-p", "no:randomly", "-p", "no:cacheprovider")
        where = (
            *("tests/raft", "tests/integration/test_replica.py"),
            *("tests/core/test_boots.py", "tests/node/test_duplicates.py"),
            "tests/node/test_only_master.py",
        )
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *where, "-k", tests],
            cwd=copy,
            capture_output=True,
            timeout=300,
            check=False,
        )
    finally:
        path.write_text(source)
    return done.returncode == 1


def main() -> int:
    """Try the guards whose names begin as asked, or all."""
    unseen = []
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name)
            else:
                shutil.copy(source, copy / name)
        for hazard, *change in GUARDS:
            if sys.argv[1:] and not hazard.startswith(tuple(sys.argv[1:])):
                continue
            missed = is_missed(copy, *change)
            print(f"{'ok  ' if missed else 'FAIL'} {hazard}", flush=True)
            if not missed:
                unseen.append(hazard)
    if unseen:
        print(f"no test misses: {', '.join(unseen)}")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
