"""Reports the node's health."""

import psutil

from ipfs_cluster_node import __version__
from ipfs_cluster_node.adapters.raft.clock import now as raft_now
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.adapters.worker.sources import Refused
from ipfs_cluster_node.codec.enums import ROLE
from ipfs_cluster_node.codec.tasks import timestamp_of_ms
from ipfs_cluster_node.core.ids import node_id_of_voter
from ipfs_cluster_node.core.settings import DELETION_PAUSED
from ipfs_cluster_node.node.parts.common import CommonPart
from ipfs_cluster_node.node.parts.member import MemberPart
from ipfs_cluster_node.node.parts.worker import WorkerPart
from ipfs_cluster_node.v1 import health_pb2 as pb


class NodeHealth:
    """Collects the health of the parts; calls no other node."""

    def __init__(self, common: CommonPart, member: MemberPart, worker: WorkerPart) -> None:
        self._common, self._worker = common, worker.worker
        self._pool = worker.pool if worker.worker else None
        self._consensus, self._uplink = member.consensus, member.uplink
        self._store, self._space, self._clock = member.store, member.space, member.clock
        self._damaged_logs = common.home.damaged_logs()
        self._process = psutil.Process()
        self._started = self._clock.own.monotonic()

    @property
    def is_serving(self) -> bool:
        """Whether the node can do its work now."""
        return all(check.ok for check in self._checks())

    def get_health(self) -> pb.GetHealthResponse:
        """The node's own view."""
        response = pb.GetHealthResponse(
            node_id=self._common.node_id,
            name=self._common.settings.node.name,
            role=ROLE.numbers[self._common.role],
            version=__version__,
            checks=self._checks(),
            resident_bytes=self._process.memory_info().rss,
            uptime_seconds=self._clock.own.monotonic() - self._started,
            content_bytes=self._store.size_bytes,
            running_attempt_count=0 if self._worker is None else self._worker.running_count,
            loop_gap_seconds=self._common.loop_gaps.longest_seconds(),
            time=timestamp_of_ms(self._clock.own.wall_ms()),
            boot=self._uplink.boot or None,
        )
        replica = self._consensus.replica
        if replica is not None:
            response.raft.is_leader = replica.is_leader
            response.raft.leader_node_id = replica.leader or ""
            response.raft.term = replica.term
            response.raft.commit_index = replica.commit_index
            response.raft.applied_index = replica.applied_index
            response.raft.voters.extend(sorted(map(node_id_of_voter, replica.voters)))
        return response

    def _without_leader(self) -> str:
        if self._consensus.removal is not None:
            return f"no leader is known, and a master says: {self._consensus.removal.message}"
        if self._consensus.knows_nobody:
            return (
                "no leader is known, and no other master; name one that runs: ipfs-cluster-node "
                "serve --master NODE_ID@HOST:PORT (see `node list`)"
            )
        return (
            "no leader is known; check that a majority of masters runs; where half or more are "
            "lost for good: ipfs-cluster-node recover alone"
        )

    def _checks(self) -> list[pb.HealthCheck]:
        knows_leader = self._consensus.leader is not None
        leader = "a leader is known" if knows_leader else self._without_leader()
        lease = "the leader hears this node"
        if not (lease_holds := self._uplink.lease_holds):
            lease = f"the leader does not hear this node: {self._uplink.last_error}"
        checks = [
            pb.HealthCheck(name="leader", ok=knows_leader, detail=leader),
            pb.HealthCheck(name="lease", ok=lease_holds, detail=lease),
            self._disk_check(),
            self._content_check(),
            self._common.certificate.check(),
            self._clock.health(),
            self._common.loop_gaps.check(),
        ]
        if self._pool is not None:
            checks.append(_confinement_check(self._pool.missing))
            checks.append(_handlers_check(self._pool.refused))
        replica = self._consensus.replica
        if replica is not None:
            checks.append(self._log_check(replica))
        return checks

    def _disk_check(self) -> pb.HealthCheck:
        free, reserve = self._space.free_and_reserve()
        detail = f"{free // 2**20} MiB are free, {reserve // 2**20} MiB are kept for the log"
        idle = self._worker is not None and not self._space.has_room_for_tasks
        lacking = ["no tasks are taken"] * idle + ["no files are stored"] * (free <= reserve)
        if lacking:
            detail += f": {' and '.join(lacking)} here; free some space"
        ok = not lacking or self._space.has_room_for_audit
        return pb.HealthCheck(name="disk", ok=ok, degraded=bool(lacking), detail=detail)

    def _content_check(self) -> pb.HealthCheck:
        damaged, repaired = self._store.damaged_count, self._store.repaired_count
        detail = "no block is known to be damaged"
        if damaged:
            detail = (
                f"{damaged} blocks are damaged or lost here, and not repaired: no other reachable "
                "master has them, or they have not been read since; start the others, read the "
                "files again, or add them again"
            )
        elif repaired:
            detail = (
                f"since the start {repaired} damaged or lost blocks were fetched again from other "
                f"masters; check the disk of {self._common.home.content}"
            )
        state = self._consensus.known_state()
        if state is not None and state.settings[DELETION_PAUSED]:
            detail += (
                "; no block is deleted, as after a recovery: add again the files that you need, "
                f"then set {DELETION_PAUSED} to 0"
            )
        return pb.HealthCheck(name="content", ok=True, degraded=bool(damaged), detail=detail)

    def _log_check(self, replica: Replica) -> pb.HealthCheck:
        slow_seconds = replica.slow_write_seconds
        outage, unmade = replica.outage, replica.snapshot_outage
        detail, degraded = "the log is written", False
        if outage is not None:
            detail = f"for {raft_now() - outage.since:.0f} s: {outage.error().message}"
        elif unmade is not None:
            degraded = True
            detail = (
                f"for {raft_now() - unmade.since:.0f} s no snapshot could be made "
                f"({unmade.cause}), and the log grows; free some space"
            )
        elif slow_seconds:
            degraded = True
            detail = (
                f"a write of the log takes {slow_seconds:.1f} s; see what keeps the disk "
                f"of {self._common.home.raft} busy, or move it to a faster one"
            )
        elif self._damaged_logs:
            detail += (
                f"; a damaged one, set aside, is in {self._damaged_logs[-1]}: remove it once it is "
                "no longer needed"
            )
        return pb.HealthCheck(name="log", ok=outage is None, degraded=degraded, detail=detail)


def _confinement_check(missing: tuple[str, ...]) -> pb.HealthCheck:
    """Task handlers run in either case; whether they can harm the node differs."""
    return pb.HealthCheck(
        name="confinement",
        ok=True,
        degraded=bool(missing),
        detail=f"{'; '.join(missing)}: run only handlers that you trust with the node's keys, or "
        "permit user namespaces on this machine"
        if missing
        else "handlers are kept from the node's files and processes; what they store in memory "
        "without mapping it is bounded only by a control group, where the node is in one",
    )


def _handlers_check(refused: tuple[Refused, ...]) -> pb.HealthCheck:
    """A node runs the handlers that it could load, and no task of the others."""
    return pb.HealthCheck(
        name="handlers",
        ok=True,
        degraded=bool(refused),
        detail="not loaded: "
        + "; ".join(f"{each.what} ({each.why})" for each in refused)
        + ": correct that, and start the node again; its log has the tracebacks"
        if refused
        else "all files with handlers are loaded",
    )
