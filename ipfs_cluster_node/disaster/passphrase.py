"""Uses of the recovery passphrase on a master: it opens the cluster's keys.

For a master that lost its own key, and for an operator who lost the identity. The passphrase is
replaced by a master that runs and leads, not by a call: otherwise a thief of an operator's
identity, with a new passphrase and a backup, would have the cluster's keys.
"""

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import Final

import grpc

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.keys.delegation import delegate
from ipfs_cluster_node.adapters.keys.sealing import (
    ClusterKeys,
    SealKey,
    open_keys,
    recovery_key,
    recovery_request,
)
from ipfs_cluster_node.adapters.net.tls import open_channel
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.client.connection import Connection, new_request_id
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.codec.enums import GRANT, ROLE
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.codec.records import AUTHORITY
from ipfs_cluster_node.codec.tasks import duration_of_ms
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.codec.views import NEW_JOIN_TOKEN
from ipfs_cluster_node.config.files import read_regular, write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSettings, load_settings
from ipfs_cluster_node.core.authorization import TOKEN_MINT
from ipfs_cluster_node.core.certificates import Authority
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.core.views import NewJoinToken
from ipfs_cluster_node.log.v1 import command_pb2
from ipfs_cluster_node.node.files import load_files
from ipfs_cluster_node.v1 import health_pb2, membership_pb2
from ipfs_cluster_node.v1.health_pb2_grpc import HealthServiceStub

OPERATOR_GRANT: Final = "operator"
INVITATION_LIFETIME: Final = timedelta(minutes=5)
"""Of the delegation by which a master makes an operator's join token: it is used at once."""
INVITE_SECONDS_MAX: Final = 20.0
LOOK_SECONDS: Final = 0.1
ASK_SECONDS_MAX: Final = 5.0
OUTCOME_SECONDS_MAX: Final = 20.0
"""For the commit that a master began; at most as long as an election."""


def master_settings(home: Home) -> NodeSettings:
    """The settings of a master's home directory.

    Raises:
        ClusterError: CONFIG_INVALID on a node that is not a master; INVALID_ARGUMENT if it is
            another user's.
    """
    owner = home.tls.stat().st_uid
    if owner != os.geteuid():
        # The node could not read files written by this user.
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"{home.path} belongs to the user with id {owner}; run this as that user",
        )
    settings = load_settings(home.config, environment={})
    if settings.node.role != Role.MASTER:
        raise ClusterError(
            Reason.CONFIG_INVALID,
            "only masters have the log and open the cluster's keys, and this node is not one; run "
            "this on a master",
        )
    return settings


def open_by_passphrase(
    authority: Authority, passphrase: str, *, cluster_id: str
) -> tuple[SealKey, ClusterKeys]:
    """Open the cluster's keys; also return what the passphrase derives.

    Raises:
        ClusterError: AUTHORITY_SEALED for a wrong passphrase, INVALID_ARGUMENT for a short one.
    """
    key = recovery_key(passphrase, cluster_id)
    try:
        data_key = key.open(authority.recovery_wrap, cluster_id=cluster_id, key_id=authority.key_id)
    except ClusterError as error:
        raise ClusterError(
            Reason.AUTHORITY_SEALED, "the passphrase is not that of this cluster; check it"
        ) from error
    return key, open_keys(authority, data_key, cluster_id=cluster_id)


def prepare_recovery(home: Home, passphrase: str) -> None:
    """Check the passphrase, store its key for the next start, and make a new seal.key.

    Raises:
        ClusterError: AUTHORITY_SEALED for a wrong passphrase, HOME_DAMAGED if the home directory
            has no copy of the sealed keys, CONFIG_INVALID on a node that is not a master.
    """
    settings = master_settings(home)
    key, _ = open_by_passphrase(_kept_authority(home), passphrase, cluster_id=settings.cluster.id)
    leave_recovery_key(home, key)


def leave_recovery_key(home: Home, key: SealKey) -> None:
    """Store the passphrase's key for the next start, and a new seal.key to seal to then."""
    write_private(home.recovery_key, key.pem())
    write_private(home.seal_key, SealKey.create().pem())


async def check_leads(home: Home) -> None:
    """Check that this master runs and leads, so that it can reseal the cluster's keys.

    Raises:
        ClusterError: UNREACHABLE, NOT_LEADER, HOME_DAMAGED, CONFIG_INVALID, INVALID_ARGUMENT.
    """
    settings = master_settings(home)
    files = load_files(home)
    own = files.identity.node_id
    [address, *_] = settings.node.advertise or (settings.node.bind,)
    async with open_channel(address, tls=files.tls, node_id=own) as channel:
        try:
            health = await HealthServiceStub(channel).GetHealth(
                health_pb2.GetHealthRequest(), timeout=ASK_SECONDS_MAX
            )
        except grpc.aio.AioRpcError as error:
            raise ClusterError(
                Reason.UNREACHABLE,
                f"this master does not answer at {address} ({error_from_rpc(error)}); start it "
                "first: ipfs-cluster-node serve",
            ) from error
    if not health.raft.is_leader:
        leader = health.raft.leader_node_id or "no master"
        raise ClusterError(
            Reason.NOT_LEADER,
            f"{leader} leads; run this on its machine, or let this master lead: "
            f"ipfs-cluster-node cluster transfer-leadership {own}",
        )
    _kept_authority(home)


async def change_passphrase(
    home: Home, passphrase: str, *, wait: timedelta, clock: Clock = SYSTEM_CLOCK
) -> bool:
    """Have this master, which runs and leads, seal the cluster's keys to another passphrase.

    The request is a file, and whoever removes it first decides: the master, which then does it, or
    this function, which withdraws it if not begun within `wait`. Returns False, if it was the
    cluster's passphrase already.

    Raises:
        ClusterError: INVALID_ARGUMENT for a short passphrase, or while another change waits;
            DEADLINE_EXCEEDED, if nothing was changed; UNKNOWN_OUTCOME; HOME_DAMAGED,
            CONFIG_INVALID.
    """
    settings = master_settings(home)
    key = await asyncio.to_thread(recovery_key, passphrase, settings.cluster.id)
    if _kept_authority(home).recovery_key == key.public_key:
        return False
    if home.recovery_next.exists():
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"another change of the passphrase is pending; if none is, remove {home.recovery_next}",
        )
    until_ms = clock.wall_ms() + wait // timedelta(milliseconds=1)
    write_private(home.recovery_next, recovery_request(key.public_key, until_ms=until_ms))
    try:
        while home.recovery_next.exists() and clock.wall_ms() < until_ms:
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        began = not _removed(home.recovery_next)
    if not began:
        raise ClusterError(
            Reason.DEADLINE_EXCEEDED,
            "nothing was changed, the old passphrase stays: this master did not begin in time; it "
            "may have lost leadership, or can't open the keys: its log says why",
        )
    deadline = clock.monotonic() + OUTCOME_SECONDS_MAX
    while _kept_authority(home).recovery_key != key.public_key:
        if clock.monotonic() >= deadline:
            raise ClusterError(
                Reason.UNKNOWN_OUTCOME,
                "this master began, and did not report completion: keep both passphrases, and "
                "give the new one again with --passphrase-file",
            )
        await asyncio.sleep(LOOK_SECONDS)
    return True


def _removed(path: Path) -> bool:
    """Remove a file; False if it was already removed."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


async def invite_operator(
    home: Home, passphrase: str, *, ttl: timedelta, clock: Clock = SYSTEM_CLOCK
) -> NewJoinToken:
    """Have the leader make a join token for an operator, with the authority of the cluster's key.

    The key delegates only that to this master, for some minutes: a master's own request is not
    enough.

    Raises:
        ClusterError: AUTHORITY_SEALED for a wrong passphrase, HOME_DAMAGED, CONFIG_INVALID; or
            the leader's error.
    """
    settings = master_settings(home)
    authority = _kept_authority(home)
    _, keys = open_by_passphrase(authority, passphrase, cluster_id=settings.cluster.id)
    files = load_files(home)
    at_ms = clock.wall_ms()
    delegation = delegate(
        keys.authority,
        files.identity.did,
        TOKEN_MINT,
        policy=(["==", ".role", Role.CLIENT.value], ["==", ".grant", OPERATOR_GRANT]),
        expires_s=(at_ms + INVITATION_LIFETIME // timedelta(milliseconds=1)) // 1000,
        at_ms=at_ms,
    )
    own = settings.node.advertise or (settings.node.bind,)
    connection = Connection(
        [*((each, files.identity.node_id) for each in own), *PeerBook(home.masters).targets()],
        files.tls,
        ucan=write_container([delegation.token]),
    )
    try:
        answer: membership_pb2.CreateJoinTokenResponse = await connection.unary(
            membership_pb2.CreateJoinTokenRequest(
                request_id=new_request_id(),
                role=ROLE.numbers[Role.CLIENT],
                grant=GRANT.numbers[OPERATOR_GRANT],
                uses_max=1,
                ttl=duration_of_ms(ttl // timedelta(milliseconds=1)),
            ),
            timeout=INVITE_SECONDS_MAX,
        )
        return NEW_JOIN_TOKEN.decode(answer)
    finally:
        await connection.close()


def _kept_authority(home: Home) -> Authority:
    try:
        message = command_pb2.Authority.FromString(read_regular(home.authority))
    except OSError as error:
        raise ClusterError(
            Reason.HOME_DAMAGED,
            f"{home.authority} can't be read; restore it from a backup, or from another master",
        ) from error
    return AUTHORITY.decode(message)
