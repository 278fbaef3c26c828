"""Runs tasks."""

from pathlib import Path

from ipfs_cluster_node.adapters.worker.pool import HandlerPool
from ipfs_cluster_node.adapters.worker.sources import Sources, read_sources
from ipfs_cluster_node.config.profiles import profile_files
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.node.attempts import AttemptRunner
from ipfs_cluster_node.node.parts.common import CommonPart
from ipfs_cluster_node.node.parts.member import MemberPart
from ipfs_cluster_node.node.parts.part import Part
from ipfs_cluster_node.node.worker import Worker


class WorkerPart(Part):
    """On every node; without slots it runs nothing."""

    def __init__(self, common: CommonPart, member: MemberPart) -> None:
        """Read the files with handlers; raises CONFIG_INVALID."""
        settings, space = common.settings, member.space
        slots = settings.slot_count
        self._drain = settings.tasks.drain
        self.pool = HandlerPool(
            sources=read_sources(settings.tasks.handlers, common.home.handlers)
            if slots
            else Sources(),
            slots=slots,
            memory_bytes_max=settings.tasks.memory_max,
            scratch=common.home.scratch,
            hidden=(common.home.path, *profile_files(), *map(Path, settings.tasks.hidden_paths)),
            writable=settings.tasks.writable_paths,
            require_confinement=settings.tasks.require_confinement,
            on_progress=self._on_progress,
        )
        self.worker: Worker | None = None
        self._uplink = member.uplink
        if not slots:
            return

        def has_room() -> bool:
            return space.has_room_for_tasks

        self.worker = Worker(
            uplink=member.uplink,
            runner=AttemptRunner(
                uplink=member.uplink,
                pool=self.pool,
                contents=member.contents,
                channel_to=common.channels.bulk,
                has_room=has_room,
                clock=common.clock,
            ),
            slots=slots,
            has_room=has_room,
            clock=common.clock,
        )
        self.loops = {"worker": self.worker.run}

    async def prepare(self) -> None:
        """Start the handler processes, and offer their task types.

        Raises:
            ClusterError: HANDLER_FAILED, CONFIG_INVALID, or what is missing to confine them.
        """
        try:
            await self.pool.start()
        except ClusterError:
            await self.pool.close()
            raise
        except (OSError, TimeoutError) as error:
            await self.pool.close()
            raise ClusterError(
                Reason.HANDLER_FAILED,
                f"handler processes do not start ({error}); see the lines of the log before this, "
                "and import the handlers by hand",
            ) from error
        self._uplink.registration.task_types.extend(sorted(self.pool.task_types))

    async def leave(self) -> None:
        """Let attempts end for a while, and return the others."""
        if self.worker is not None:
            await self.worker.leave(self._drain)

    def stay(self) -> None:
        """Accept attempts again."""
        if self.worker is not None:
            self.worker.stay()

    async def close(self) -> None:
        """End the handler processes."""
        await self.pool.close()

    def _on_progress(self, task_id: TaskId, attempt: int, ratio: float, note: str) -> None:
        if self.worker is not None:
            self.worker.on_progress(task_id, attempt, ratio, note)
