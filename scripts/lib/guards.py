"""Takes each guard of docs/consensus.md out of a copy of the project: its test must go red."""
# ruff: noqa: E501  # Code as it stands in its file.

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
RAFT: Final = "ipfs_cluster_node/adapters/raft"
COPIED: Final = ("ipfs_cluster_node", "tests", "scripts", "pyproject.toml")
GUARDS: Final = [
    (
        "H1 strip",
        "guarded/follower.py",
        "            if journal.term_at(index) == term:\n                verified = index\n                continue\n",
        "",
        "h1",
    ),
    (
        "H1 committed",
        "guarded/follower.py",
        '            if index <= self.commit_index:\n                raise ConsensusViolationError(f"{COMMITTED_TRUNCATION} at index {index}")\n',
        "",
        "h1",
    ),
    (
        "H2 term",
        "guarded/voter.py",
        'case "next_node_idx" if term == newest and self.leads:',
        'case "next_node_idx" if self.leads:',
        "h2",
    ),
    (
        "H2 stranger",
        "guarded/voter.py",
        'if kind in VOTER_ONLY and not (votes or (learns and kind == "next_node_idx")):',
        "if False:",
        "h2 or h4 or h22 or h14",
    ),
    (
        "H3 verified",
        "guarded/outgoing.py",
        '            message = {**message, "next_node_idx": self.verified_next}\n',
        "",
        "h3",
    ),
    (
        "H4 votes",
        "guarded/candidate.py",
        "        if sender not in self._votes[1]:\n",
        "        if True:\n",
        "h4",
    ),
    (
        "H5 commit",
        "guarded/follower.py",
        'self.out._onMessageReceived(node, {**message, "commit_index": 0})\n            heard',
        "self.out._onMessageReceived(node, message)\n            heard",
        "h5",
    ),
    (
        "H6 ack",
        "guarded/outgoing.py",
        "                return True  # Only a verified append is acknowledged (H3, H6).\n",
        '                self.verified_next = message["next_node_idx"]\n',
        "h6",
    ),
    (
        "H7 commit",
        "journal.py",
        "        return self._entries[0][1]\n\n    def setCurrentTerm",
        "        return self._entries[-1][1]\n\n    def setCurrentTerm",
        "h7",
    ),
    (
        "H7 frame",
        "segments.py",
        "    return records if _crc(salt, number, records) == crc else None",
        "    return records",
        "journal",
    ),
    (
        "H10",
        "snapshot.py",
        " or self._crc_of_content() != snapshot_crc(file):",
        ":",
        "snapshot",
    ),
    (
        "H11 entry",
        "messages.py",
        "or not _is_entry(command):",
        "or command[:1] not in ENTRY_TYPES:",
        "h11_a_malformed_entry_is_refused",
    ),
    (
        "H11 skip",
        "applying.py",
        "    except ValueError:\n        # No peer",
        "    except ZeroDivisionError:\n        # No peer",
        "h11_a_malformed_entry_in",
    ),
    (
        "H12",
        "guarded/state.py",
        "            and self.commit_index >= self._journal.last_change_index()\n",
        "",
        "h12",
    ),
    (
        "H12 queued",
        "guarded/state.py",
        "            self._queued_change is None\n            and noop",
        "            noop",
        "h12",
    ),
    (
        "H13",
        "guarded/state.py",
        "leaderFallbackTimeout=config.fallback_timeout.total_seconds()",
        "leaderFallbackTimeout=30.0",
        "h13",
    ),
    (
        "H14 prevote",
        "guarded/candidate.py",
        "        elif self._SyncObj__raftElectionDeadline < moment and not self._campaigns:",
        "        elif False:",
        "h14",
    ),
    (
        "H14 sticky",
        "guarded/voter.py",
        'case "request_vote" if message["transfer"] or not self._is_led():',
        'case "request_vote":',
        "h14",
    ),
    (
        "H14 stale",
        "guarded/voter.py",
        "            self.out.post(sender, pb.RaftMessage(term=newest, stale_term=pb.StaleTerm()))\n",
        "",
        "h14",
    ),
    ("H17 pickle", "guarded/library.py", "pysyncobj.syncobj.pickle = _NoPickle\n", "", "h17"),
    (
        "H21",
        "guarded/candidate.py",
        "        if self._voter not in voters:\n",
        "        if False:\n",
        "h21",
    ),
    (
        "H23",
        "link.py",
        "            except Exception as error:",
        "            except OSError as error:",
        "whatever",
    ),
    (
        "H24",
        "guarded/leader.py",
        "            next_index[node] = max(before, next_index.get(node, 0))\n",
        "            pass\n",
        "h24",
    ),
    (
        "H25 room",
        "inflights.py",
        "        return self._of[voter].size_bytes < self._bytes_max\n",
        "        return True\n",
        "h25",
    ),
    (
        "H25 old",
        "inflights.py",
        "        return sent_at_ns < self._of[voter].begun_at_ns\n",
        "        return False\n",
        "h25",
    ),
    (
        "snap needed",
        "guarded/leader.py",
        "                self._on_snapshot_needed(VoterId(node.id))\n",
        "",
        "is_offered_one",
    ),
    (
        "snap haste",
        "guarded/leader.py",
        "        lacks = self._journal.first_index < next_index",
        "        lacks = 0 < next_index",
        "is_offered_one",
    ),
    (
        "H11",
        "applying.py",
        "    except Exception as error:\n        if isinstance",
        "    except ZeroDivisionError as error:\n        if isinstance",
        "raising_apply",
    ),
    (
        "H15 batch",
        "proposals.py",
        "        if not (leads and self._batch_term == term):",
        "        if False:",
        "h15",
    ),
    (
        "H15 waiting",
        "proposals.py",
        "        if not leads:\n            self._fail_waiting",
        "        if False:\n            self._fail_waiting",
        "h15",
    ),
    (
        "H7 note",
        "journal.py",
        "        if (last.number, last.frames) < self.synced:\n",
        "        if False:\n",
        "damaged_end",
    ),
    (
        "H18 rebase",
        "journal.py",
        "        if self.term_at(index) == term:\n            self.trim(index, voters)\n            return\n",
        "",
        "installed_snapshot",
    ),
    (
        "frames epoch",
        "framing.py",
        "frame.epoch != self._epoch or frame.sequence <= self._sequence",
        "frame.sequence <= self._sequence",
        "older_connection",
    ),
    (
        "frames repeat",
        "framing.py",
        "frame.epoch != self._epoch or frame.sequence <= self._sequence",
        "frame.epoch != self._epoch",
        "repeated_or_replayed",
    ),
    (
        "frames gap",
        "framing.py",
        "        if frame.sequence != self._sequence + 1:\n",
        "        if False:\n",
        "missing_frame",
    ),
    (
        "frames damage",
        "framing.py",
        "if _crc(frame.epoch, frame.sequence, frame.last, data) != frame.crc:",
        "if False:",
        "mutated",
    ),
    (
        "link of a learner",
        "guarded/voter.py",
        "            if learner in self._up:\n",
        "            if False:\n",
        "learner_of_a_leader",
    ),
    (
        "H26 index",
        "witness.py",
        "            self.index < known.index or ",
        "            ",
        "h26",
    ),
    (
        "H26 term",
        "witness.py",
        " or self.term < known.term",
        "",
        "h26",
    ),
    (
        "H26 own",
        "engine.py",
        "        self._check_own_mark()\n",
        "",
        "h26",
    ),
    (
        "H26 admit",
        "engine.py",
        "        if claim.falls_short_of(known):\n",
        "        if False:\n",
        "h26",
    ),
    (
        "H26 stops",
        "replica_peers.py",
        "            self._damage = LogDamagedError(error.message)\n",
        "",
        "h26",
    ),
    (
        "H26 followers",
        "guarded/voter.py",
        "            self._witness_followers()\n",
        "            pass\n",
        "h26",
    ),
    (
        "H26 told",
        "guarded/voter.py",
        '                self.witness.told(message["marks"])\n',
        "",
        "h26",
    ),
    (
        "H26 match",
        "guarded/leader.py",
        "            match_index[node] = claim.index\n",
        "            pass\n",
        "h26",
    ),
    (
        "H27 command",
        "../../codec/commands.py",
        "    if message.format > FORMAT or (kind is None and len(UnknownFieldSet(message))):",
        "    if message.format > FORMAT:",
        "newer_release",
    ),
    (
        "H27 format",
        "../../codec/commands.py",
        "message.format > FORMAT or (kind is None and len(UnknownFieldSet(message)))",
        "kind is None and len(UnknownFieldSet(message))",
        "newer_release",
    ),
    (
        "H27 snapshot",
        "../../codec/snapshot.py",
        "        if part.format > FORMAT:",
        "        if False:",
        "whole_snapshot",
    ),
    (
        "H27 stops",
        "applying.py",
        "        if isinstance(error, ClusterError) and error.reason is Reason.RELEASE_TOO_OLD:",
        "        if False:",
        "newer_release or older_replica",
    ),
    (
        "H27 received",
        "snapshotting.py",
        "                if error.reason is Reason.RELEASE_TOO_OLD:",
        "                if False:",
        "received_snapshot",
    ),
    (
        "H28 place",
        "../../core/boots.py",
        "        if UNKNOWN not in (boot, here) and boot != here:",
        "        if False:",
        "boots or another_process",
    ),
    (
        "H28 exchange",
        "replica_peers.py",
        "        self._boots.joined(peer, first.hello.boot)\n",
        "        self._boots.joined(peer, UNKNOWN)\n",
        "another_process",
    ),
    (
        "H28 free",
        "replica_peers.py",
        "            self._boots.left(peer)\n",
        "            pass\n",
        "another_process",
    ),
    (
        "H28 members",
        "../../cluster/members.py",
        "        self.boots.check(node_id, boot)\n",
        "",
        "neither_registers",
    ),
    (
        "H28 register",
        "../../cluster/members.py",
        "        self.boots.check(body.node_id, boot)\n",
        "",
        "neither_registers",
    ),
    (
        "H28 session",
        "../../cluster/worker_sessions.py",
        "        self.boots.joined(node_id, first.hello.boot)\n",
        "        self.boots.joined(node_id, 0)\n",
        "copied_worker",
    ),
    (
        "H28 restart",
        "../../node/uplink.py",
        "                    refused_since = None\n                if not",
        "                    pass\n                if not",
        "leader_was_away",
    ),
    (
        "H28 only",
        "../../core/boots.py",
        "heard.items() if each != boot), None)",
        "heard.items() if False), None)",
        "knows_itself or another_process",
    ),
    (
        "H28 start",
        "../../node/parts/master.py",
        "        await self._copies.refuse()",
        "        pass",
        "before_it_serves",
    ),
    (
        "H28 later",
        "../../node/copies.py",
        "            if self._unheard and self._votes_alone():",
        "            if False:",
        "stopped_or_off",
    ),
    (
        "H28 uplink",
        "../../node/uplink.py",
        "self._votes_alone() or refused_seconds",
        "refused_seconds",
        "only_voter",
    ),
]
"""Hazard, file (from `RAFT`), what is there, what is put in its place, and which tests must see it."""


def is_missed(copy: Path, file: str, there: str, instead: str, tests: str) -> bool:
    """Whether a test fails once a guard is gone.

    Raises:
        ValueError: The guard is not in the file as it is written here.
    """
    path = copy / RAFT / file
    source = path.read_text()
    if source.count(there) != 1:
        raise ValueError(f"{file} has changed: {there.strip().splitlines()[0]!r} is not there once")
    path.write_text(source.replace(there, instead))
    try:
        options = ("-q", "-x", "--timeout", "30", "-p", "no:randomly", "-p", "no:cacheprovider")
        where = (
            *("tests/raft", "tests/integration/test_replica.py"),
            *("tests/core/test_boots.py", "tests/node/test_copies.py"),
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
