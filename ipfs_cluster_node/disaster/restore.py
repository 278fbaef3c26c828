"""Starts a new cluster from a backup, once no master is left: with one new master.

The cluster keeps its DID, its roots, its members and their delegations. Only its old masters are
removed; a new one takes their place, for which the recovery passphrase opens the cluster's keys.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.keys.certificates import make_tls_key, pin_of, record_of
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.sealing import SealKey, resealed
from ipfs_cluster_node.adapters.keys.tokens import JoinSecret, hash_secret, mint_token
from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk, DirectoryFile
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.restore import create_store_of
from ipfs_cluster_node.adapters.raft.snapshot import Position, SnapshotFile
from ipfs_cluster_node.adapters.raft.snapshotting import load_state
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.cluster.certificates.issuing import sign_for
from ipfs_cluster_node.cluster.members import TOKEN_TTL_DEFAULT
from ipfs_cluster_node.cluster.peers import save_masters
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.config.credentials import Credentials, write_enrolment
from ipfs_cluster_node.config.files import open_regular, write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import (
    ClusterSection,
    NodeSection,
    NodeSettings,
    write_settings,
)
from ipfs_cluster_node.core.commands import (
    CreateJoinToken,
    IssueCertificate,
    RedeemJoinToken,
    RegisterNode,
    RemoveNode,
    SetAuthority,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, voter_id
from ipfs_cluster_node.core.model import Principal, Role
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.disaster.alone import apply_alone, pause_deletion
from ipfs_cluster_node.disaster.passphrase import OPERATOR_GRANT, open_by_passphrase
from ipfs_cluster_node.node.health_calls import masters_that_run
from ipfs_cluster_node.node.setup import write_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredCluster:
    """What was created."""

    cluster_id: str
    cluster_name: str
    node_id: NodeId
    removed: tuple[Principal, ...]
    """The old masters."""
    operator_token: str
    """A join token for an operator, valid for an hour; shown only this once."""
    enrolment_endpoints: tuple[str, ...]


def restore_cluster(
    home: Home,
    settings: NodeSection,
    *,
    backup: Path,
    passphrase: str,
    check_lost: Callable[[Iterable[Principal], ClientTls], None] = lambda _masters, _tls: None,
    clock: Clock = SYSTEM_CLOCK,
) -> RestoredCluster:
    """Make the first master of a cluster that continues from a backup, in an empty home.

    Before anything is written, `check_lost` is called with the old masters and the new one's
    credentials.

    Raises:
        ClusterError: INVALID_ARGUMENT for a file that is not a whole backup, AUTHORITY_SEALED for a
            wrong passphrase, HOME_EXISTS, CONFIG_INVALID; nothing is written then.
    """
    machine, position = _read_backup(backup)
    state = machine.state
    authority = state.certificates.authority
    _, keys = open_by_passphrase(authority, passphrase, cluster_id=state.cluster_id)
    whole = NodeSettings(
        node=settings, cluster=ClusterSection(id=state.cluster_id, name=state.cluster_name)
    )
    document = write_settings(whole)
    removed = tuple(state.members.masters())
    for master in removed:
        apply_alone(state, RemoveNode(node_id=master.node_id), clock=clock)
    pause_deletion(state, clock=clock)
    identity, seal_key = Identity.create(), SealKey.create()
    incarnation = _let_in(state, identity, seal_key, whole, clock=clock)
    # Under a new data key, since the old masters know the old one.
    seal_keys = {identity.did: seal_key.public_key}
    changed = resealed(
        state.certificates.authority, keys, cluster_id=state.cluster_id, seal_keys=seal_keys
    )
    apply_alone(state, SetAuthority(authority=changed), clock=clock)
    key = make_tls_key(identity)
    me = state.members.get(identity.did)
    assert me is not None
    certificate = sign_for(state, keys.cas[authority.signer], me, key.request_der, now=clock.wall())
    record = record_of(certificate, issued_at_ms=clock.wall_ms(), epoch=authority.epoch)
    apply_alone(state, IssueCertificate(record=record), clock=clock)
    tls = ClientTls(authority.bundle_pem, certificate, key.key_pem)
    check_lost(removed, tls)
    token = _put_token(state, Role.CLIENT, grant=OPERATOR_GRANT, clock=clock)
    with home.making():
        home.create()
        write_private(home.seal_key, seal_key.pem())
        write_keys(
            home, identity, Credentials(tls.ca_pem, certificate, key.key_pem, authority.epoch)
        )
        create_store_of(
            DirectoryDisk(home.raft),
            voter_id(identity.node_id, incarnation),
            machine,
            index=position.index,
            term=position.term + 1,
        )
        save_masters(home.masters, {identity.node_id: me.endpoints})
        write_enrolment(home.enrolment, whole.enrolment_endpoints)
        # Last, since it marks that there is a node.
        write_private(home.config, document.encode())
    return RestoredCluster(
        cluster_id=state.cluster_id,
        cluster_name=state.cluster_name,
        node_id=identity.node_id,
        removed=removed,
        operator_token=str(token),
        enrolment_endpoints=whole.enrolment_endpoints,
    )


def refuse_while_masters_run(masters: Iterable[Principal], tls: ClientTls) -> None:
    """Raise INVALID_ARGUMENT while an old master answers; blocks."""
    for heard in asyncio.run(masters_that_run(masters, tls)):
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"{heard.master.name} ({heard.master.node_id}) runs: not every master is lost. Let it "
            "continue alone if the others are: ipfs-cluster-node recover alone; or stop it for "
            "good. For a trial, which must never meet the members: --force",
        )


def _read_backup(path: Path) -> tuple[ReplicatedStateMachine, Position]:
    machine = ReplicatedStateMachine()
    opened = DirectoryFile(open_regular(path))
    with closing(opened):
        try:
            file = SnapshotFile(opened)
            load_state(machine, file)()
        except LogDamagedError as error:
            raise ClusterError(
                Reason.INVALID_ARGUMENT,
                f"{path} is damaged or cut short, or no backup at all; take another one",
            ) from error
        except (ValueError, KeyError, AttributeError) as error:
            # Whole, by its checksum: it was written by another release.
            raise ClusterError(
                Reason.INVALID_ARGUMENT,
                f"{path} is a backup of another release; restore it with that one",
            ) from error
    if not machine.state.cluster_id:
        raise ClusterError(Reason.INVALID_ARGUMENT, f"{path} holds no cluster; take another backup")
    return machine, file.position


def _let_in(
    state: ClusterState,
    identity: Identity,
    seal_key: SealKey,
    settings: NodeSettings,
    *,
    clock: Clock,
) -> int:
    """Make the new master a member, as with a join token; returns its incarnation."""
    endpoints = settings.node.advertise or (settings.node.bind,)
    token = _put_token(state, Role.MASTER, grant="", clock=clock)
    _, incarnation, _ = apply_alone(
        state,
        RedeemJoinToken(
            token_id=token.token_id,
            secret_hash=hash_secret(token.secret),
            did=identity.did,
            name=settings.node.name,
            endpoints=endpoints,
            seal_key=seal_key.public_key,
        ),
        clock=clock,
    )
    # What it will report itself when it starts: its certificate has to name these too.
    apply_alone(
        state,
        RegisterNode(
            node_id=identity.node_id,
            endpoints=endpoints,
            task_types=(),
            slot_count=0,
            version="",
            seal_key=seal_key.public_key,
            enrolment_endpoints=settings.enrolment_endpoints,
        ),
        clock=clock,
    )
    return int(incarnation)


def _put_token(state: ClusterState, role: Role, *, grant: str, clock: Clock) -> JoinSecret:
    authority = state.certificates.authority
    token = mint_token(pin_of(authority.roots[authority.signer].encode()))
    apply_alone(
        state,
        CreateJoinToken(
            token_id=token.token_id,
            secret_hash=hash_secret(token.secret),
            role=role,
            expires_at_ms=clock.wall_ms() + TOKEN_TTL_DEFAULT // timedelta(milliseconds=1),
            uses_max=1,
            addresses=(),
            grant=grant,
        ),
        clock=clock,
    )
    return token
