"""The client: every public operation, spelled as in the protos, for asyncio."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import grpc

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.keys.identity import check_private
from ipfs_cluster_node.adapters.net.channels import Target
from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.client import backup
from ipfs_cluster_node.client.access import AccessCalls
from ipfs_cluster_node.client.calls import TIMEOUT_DEFAULT
from ipfs_cluster_node.client.certificates import CertificateCalls, ProfileCertificate
from ipfs_cluster_node.client.configuration import ConfigCalls
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.client.lookups import Lookups
from ipfs_cluster_node.client.membership import MembershipCalls
from ipfs_cluster_node.client.patience import Patience
from ipfs_cluster_node.client.sql import SqlCalls
from ipfs_cluster_node.client.values import seconds
from ipfs_cluster_node.codec import views as codecs
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.config.credentials import read_credentials
from ipfs_cluster_node.config.output_file import output_file
from ipfs_cluster_node.config.profiles import (
    Profile,
    ProfileEndpoint,
    chosen_profile,
    load_profile,
    save_profile,
)
from ipfs_cluster_node.config.protection import check_directory
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import BACKUP_SECONDS_MAX
from ipfs_cluster_node.core.views import HealthReport
from ipfs_cluster_node.v1 import health_pb2, membership_pb2
from ipfs_cluster_node.v1.health_pb2_grpc import HealthServiceStub
from ipfs_cluster_node.v1.membership_pb2_grpc import MembershipServiceStub

LEARN_SECONDS_MAX: Final = 5.0
LEARN_INTERVAL_SECONDS: Final = 60.0


class Client(AccessCalls, CertificateCalls, ConfigCalls, MembershipCalls, SqlCalls):
    """One cluster, as one principal.

    Every operation goes to the leader, follows it when it changes, and is retried safely until it
    succeeds, is refused, or `timeout` is over. Failures are `ClusterError`: branch on `reason`.
    """

    def __init__(
        self,
        connection: Connection,
        on_masters: Callable[[Sequence[Target]], None] = lambda _targets: None,
    ) -> None:
        """Use a connection; `from_profile` makes one.

        Args:
            connection: Has at least one master; the others are learned after the first answer.
            on_masters: Called with all masters when they have been learned.
        """
        self._connection = connection
        self._on_masters = on_masters
        self._learning: asyncio.Task[None] | None = None
        self._learn_at = 0.0
        self.lookups = Lookups(self)
        """Names and beginnings of ids; all operations take them where they take an id."""
        self.certificate: ProfileCertificate | None = None
        """Renews itself; None for a client that was given a connection."""

    @classmethod
    def from_profile(
        cls,
        name: str | None = None,
        *,
        stale: bool = False,
        ucan: str = "",
        patience: Patience | None = None,
    ) -> Self:
        """Open the profile that `init`, `join` or `dev` wrote.

        Args:
            name: Default: the environment's, else `default`.
            stale: Whether any master may answer reads from its own copy, which may be out of date;
                otherwise reads are linearizable.
            ucan: A container of delegations for the calls, besides those that the cluster stores
                for this client.
            patience: When to give up before the deadline, for a person who waits; default: never.

        Raises:
            ClusterError: CONFIG_INVALID.
        """
        profile = load_profile(name)

        def remember(targets: Sequence[Target]) -> None:
            # Otherwise a profile with one master is useless once that master is gone.
            endpoints = tuple(ProfileEndpoint(a, n) for a, n in targets if n is not None)
            if set(endpoints) != set(profile.endpoints):
                save_profile(chosen_profile(name), replace(profile, endpoints=endpoints))

        return cls.from_settings(profile, remember, stale=stale, ucan=ucan, patience=patience)

    @classmethod
    def from_settings(
        cls,
        profile: Profile,
        on_masters: Callable[[Sequence[Target]], None] = lambda _targets: None,
        *,
        stale: bool = False,
        ucan: str = "",
        patience: Patience | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> Self:
        """Open a profile.

        Raises:
            ClusterError: CONFIG_INVALID, if one of its files can't be read; HOME_DAMAGED, if others
                may read or replace its key.
        """
        try:
            for path in (profile.certificate, profile.key):
                if path.exists():  # Either may hold the key.
                    check_private(path)
                    check_directory(path.parent)
            kept = read_credentials(profile.ca, profile.certificate, profile.key)
            tls = ClientTls(kept.ca_pem, kept.certificate_pem, kept.key_pem)
        except OSError as error:
            raise ClusterError(
                Reason.CONFIG_INVALID,
                f"{error.filename}, which the profile names, can't be read; correct the profile",
            ) from error
        targets = [(e.address, NodeId(e.node_id)) for e in profile.endpoints]
        connection = Connection(targets, tls, stale=stale, ucan=ucan, patience=patience)
        client = cls(connection, on_masters)
        client.certificate = ProfileCertificate(profile, connection, kept, clock=clock)
        return client

    async def __aenter__(self) -> Self:
        if self.certificate is not None:
            await self.certificate.renew_if_expired()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        if self._learning is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LEARN_SECONDS_MAX):
                    await asyncio.gather(self._learning, return_exceptions=True)
        if self.certificate is not None:
            await self.certificate.close()
        await self._connection.close()

    # A node, and the state as a whole.

    async def get_health(
        self, address: str, node_id: str, *, timeout: timedelta = timedelta(seconds=5)
    ) -> HealthReport:
        """Read one node's health."""
        channel = self._connection.channel((address, NodeId(node_id)))
        try:
            answer = await HealthServiceStub(channel).GetHealth(
                health_pb2.GetHealthRequest(), timeout=timeout.total_seconds()
            )
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        return codecs.HEALTH.decode(answer)

    async def create_backup(
        self,
        path: Path,
        *,
        force: bool = False,
        on_progress: backup.Progress = lambda _size_bytes: None,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> backup.Backup:
        """Write the whole state to a file, which appears once it is complete and checked.

        Args:
            path: The file; its directory must exist.
            force: Whether an existing file is replaced.
            on_progress: Called with the number of bytes received so far.
            timeout: After which failures are not retried; a running transfer may take longer.

        Raises:
            ClusterError: INVALID_ARGUMENT, if the file exists or can't be created; STORAGE_FULL.
        """
        # Private: it holds payloads and results of tasks.
        with output_file(path, force=force, private=True, whole=True) as file:
            return await self.copy_backup(file, on_progress=on_progress, timeout=timeout)

    async def copy_backup(
        self,
        file: BinaryIO,
        *,
        on_progress: backup.Progress = lambda _size_bytes: None,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> backup.Backup:
        """Write the whole state to an open, readable, truncatable file; see `create_backup`.

        The file's content is valid only once this has returned.
        """

        async def receive(channel: grpc.aio.Channel, _seconds: float) -> backup.Backup:
            call = MembershipServiceStub(channel).CreateBackup(
                membership_pb2.CreateBackupRequest(),
                timeout=BACKUP_SECONDS_MAX,
                metadata=self._connection.metadata,
            )
            try:
                return await backup.receive(
                    (response.data async for response in call), file, on_progress
                )
            finally:
                call.cancel()

        return await self._connection.following(receive, timeout=seconds(timeout))

    async def _unary(self, request: Any, timeout: timedelta) -> Any:
        answer = await self._connection.unary(request, timeout=seconds(timeout))
        self._note_answer()
        return answer

    def _note_answer(self) -> None:
        """Renew the certificate, and learn the masters, if it is time."""
        if self.certificate is not None:
            self.certificate.keep()
        now = asyncio.get_running_loop().time()
        if now >= self._learn_at and (self._learning is None or self._learning.done()):
            self._learn_at = now + LEARN_INTERVAL_SECONDS
            self._learning = asyncio.create_task(self._learn(), name="learn-masters")

    async def _learn(self) -> None:
        """Learn all masters, so that losing the known one does no harm.

        Also learns of a root rotation, which waits for this client.
        """
        limit = timedelta(seconds=LEARN_SECONDS_MAX)
        try:
            status = await self.get_cluster_status(timeout=limit)
            if self.certificate is not None:
                self.certificate.keep(epoch=status.certificate_epoch)
        except ClusterError:
            self._learn_at = 0.0  # Retry after the next answer.
            return
        targets = [
            (address, NodeId(master.node_id))
            for master in status.masters
            for address in master.endpoints
        ]
        if not targets:
            return  # Of an older master, which names none: what is known stays.
        self._connection.add(targets)
        self._on_masters(targets)
