"""Opens the cluster's sealed keys on a master, and keeps them sealed to the current masters."""

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Final

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.keys.sealing import (
    ClusterKeys,
    SealKey,
    open_data_key,
    open_keys,
    recovery_change,
    resealed,
    wrap,
)
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.codec.records import AUTHORITY
from ipfs_cluster_node.config.files import read_regular, write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.certificates import Authority, RotationPhase
from ipfs_cluster_node.core.commands import SetAuthority
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.log.v1 import command_pb2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """The caller and request id of a change: repeating it changes nothing."""

    caller: str = ""
    request_id: str = ""
    what: str = ""


BY_ITSELF: Final = Asked()


class ClusterAuthority:
    """The cluster's keys, if this master can open them. Runs in the event loop's thread."""

    def __init__(
        self,
        home: Home,
        consensus: Consensus,
        *,
        did: Did,
        cluster_id: str,
        clock: Clock,
    ) -> None:
        """Start without a key that opens them, as on a node without a log."""
        self._clock = clock
        self._home = home
        self._consensus = consensus
        self._did = did
        self._cluster_id = cluster_id
        self._seal_key: SealKey | None = None
        self._recovery: SealKey | None = None
        self._opened: tuple[str, int, bytes, ClusterKeys] | None = None
        self._kept_version = 0
        self.changing = asyncio.Lock()
        """Held from reading the authority to committing its change: of two concurrent changes the
        second would be refused."""

    def use_keys(self, seal_key: SealKey | None, recovery: SealKey | None) -> None:
        """From now on open with `seal_key`, or with what `recover keys` has left."""
        self._seal_key, self._recovery = seal_key, recovery

    def forget_keys(self) -> None:
        """Open nothing any longer."""
        self._seal_key = self._recovery = self._opened = None

    @property
    def seal_public_key(self) -> bytes:
        """The keys are sealed to it for this master; empty if it has none."""
        return b"" if self._seal_key is None else self._seal_key.public_key

    def keys(self, authority: Authority) -> ClusterKeys:
        """Open the keys; raises AUTHORITY_SEALED."""
        return self._open(authority)[1]

    def kept(self) -> Authority | None:
        """The sealed keys as this master last knew them, for when its log is not applied yet."""
        try:
            message = command_pb2.Authority.FromString(read_regular(self._home.authority))
        except OSError:
            return None
        return AUTHORITY.decode(message)

    async def tend(self) -> None:
        """As the leader: seal to newly registered masters, and reseal without removed ones.

        Also reseals if `recover passphrase` asks this master to.

        Raises:
            ClusterError: AUTHORITY_SEALED, if this master can't open the keys itself.
        """
        async with self.changing:  # A registering master calls this beside the leader's loop.
            await self._tend()

    async def _tend(self) -> None:
        state = self._consensus.leader_state()
        authority = state.certificates.authority
        if not authority.key_id:
            return
        wanted = {m.did: m.seal_key for m in state.members.masters() if m.seal_key}
        wrapped = {did for did, _ in authority.wraps}
        gone = wrapped - {m.did for m in state.members.masters()}
        new = wanted.keys() - wrapped
        asked = self._home.recovery_next.exists()
        if not gone and not new and self._recovery is None and not asked:
            return
        data_key, keys = self._open(authority)
        recovery_next = self._take_recovery_next() if asked else None
        recovered = self._recovery is not None
        if gone or recovered or recovery_next is not None:
            # A removed master knows the data key, so later keys are sealed under a new one.
            keep = {did: key for did, key in wanted.items() if did in (wrapped - gone) | new}
            if recovered:
                keep[self._did] = self.seal_public_key
            if recovery_next is not None:
                authority = replace(authority, recovery_key=recovery_next)
            await self.put(state, authority, keys, seal_keys=keep)
            log.warning(
                "cluster keys resealed",
                extra={"without": sorted(gone), "other_passphrase": recovery_next is not None},
            )
        elif new:
            names = {"cluster_id": self._cluster_id, "key_id": authority.key_id}
            added = tuple((did, wrap(data_key, wanted[did], **names)) for did in sorted(new))
            changed = replace(
                authority, version=authority.version + 1, wraps=(*authority.wraps, *added)
            )
            await self.commit(changed)
            log.info("cluster keys sealed to masters", extra={"masters": sorted(new)})
        if recovered:
            # The key to the old copy is deleted only once this master can open the new one.
            self.keep()
            self._recovery = None
            self._home.recovery_key.unlink(missing_ok=True)
        if recovery_next is not None:
            self.keep()  # `recover passphrase` waits for it there.

    def _take_recovery_next(self) -> bytes | None:
        """The public key of the passphrase that replaces the present one, if still allowed.

        Once taken, the request can't be withdrawn.
        """
        path = self._home.recovery_next
        asked = b""
        try:
            asked = read_regular(path)
        except OSError as error:
            log.warning("new passphrase not taken", extra={"error": str(error)})
        try:
            path.unlink()
        except OSError:
            return None
        return recovery_change(asked, now_ms=self._clock.wall_ms())

    async def put(
        self,
        state: ClusterState,
        authority: Authority,
        keys: ClusterKeys,
        *,
        seal_keys: dict[Did, bytes] | None = None,
        phase: RotationPhase | None = None,
        signer: int | None = None,
        asked: Asked = BY_ITSELF,
    ) -> Authority:
        """Commit other keys, resealed; with a phase, also a new epoch. Hold `changing`."""
        if seal_keys is None:
            wrapped = {did for did, _ in authority.wraps}
            masters = state.members.masters()
            seal_keys = {m.did: m.seal_key for m in masters if m.seal_key and m.did in wrapped}
        sealed = resealed(authority, keys, cluster_id=self._cluster_id, seal_keys=seal_keys)
        roots = tuple(ca.certificate_pem.decode() for ca in keys.cas)
        changed = replace(sealed, roots=roots)
        if phase is not None:
            changed = replace(
                changed,
                phase=phase,
                phase_at_ms=self._clock.wall_ms(),
                epoch=authority.epoch + 1,
                signer=authority.signer if signer is None else signer,
            )
        await self.commit(changed, asked)
        return changed

    async def commit(self, changed: Authority, asked: Asked = BY_ITSELF) -> None:
        """Commit a change of the authority. Hold `changing`."""
        await self._consensus.propose(
            SetAuthority(authority=changed, asked=asked.what),
            caller=asked.caller,
            request_id=asked.request_id,
        )

    def keep(self) -> None:
        """Write the sealed keys to disk if they changed: for a start without a leader."""
        try:
            authority = self._consensus.state().certificates.authority
        except ClusterError:
            return
        if authority.version != self._kept_version and authority.key_id:
            data = AUTHORITY.encode(authority).SerializeToString(deterministic=True)
            try:
                write_private(self._home.authority, data)
            except OSError as error:  # Perhaps the disk is full: the next turn tries again.
                log.warning("sealed keys not written", extra={"error": repr(error)})
                return
            self._kept_version = authority.version

    def _open(self, authority: Authority) -> tuple[bytes, ClusterKeys]:
        known = self._opened
        if known is not None and known[:2] == (authority.key_id, authority.version):
            return known[2], known[3]
        data_key = open_data_key(
            authority,
            wrapped=authority.wrap_of(self._did),
            cluster_id=self._cluster_id,
            seal_key=self._seal_key,
            recovery=self._recovery,
        )
        keys = open_keys(authority, data_key, cluster_id=self._cluster_id)
        self._opened = (authority.key_id, authority.version, data_key, keys)
        return data_key, keys
