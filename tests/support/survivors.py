"""The home of a master that is left of three."""

from pathlib import Path

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.sealing import SealKey
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.journal import MEMBERSHIP, REGULAR, SegmentedJournal
from ipfs_cluster_node.adapters.raft.proposals import BATCH_ID_BYTES, encode_entry
from ipfs_cluster_node.cluster.peers import save_masters
from ipfs_cluster_node.codec.commands import encode_command
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSection
from ipfs_cluster_node.core.commands import (
    CommandBody,
    CreateJoinToken,
    LogCommand,
    ProposeConfig,
    RedeemJoinToken,
)
from ipfs_cluster_node.core.ids import voter_id
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.node.setup import init_cluster

PASSPHRASE = "a passphrase of the tests"
ADDRESS = ("127.0.0.1:9096",)
OTHERS = (Identity.create(), Identity.create())


def write(home: Home, *bodies: CommandBody, voters: tuple[str, ...] = ()) -> None:
    """Append to the log what nobody knows to be committed."""
    disk = DirectoryDisk(home.raft)
    journal = SegmentedJournal(disk, base_voters=frozenset())
    for voter in voters:
        journal.add(MEMBERSHIP + f"add {voter}".encode(), journal.last_index + 1, 2)
    for body in bodies:
        command = encode_command(LogCommand(at_ms=1_800_000_000_000, body=body))
        entry = REGULAR + encode_entry(bytes(BATCH_ID_BYTES), [command])
        journal.add(entry, journal.last_index + 1, 2)
    journal.setCurrentTerm(5, None)
    journal.write_and_sync(journal.take_pending())
    disk.close()


def home_of_three(path: Path) -> Home:
    """The home of the first of three masters, which the others are gone from."""
    home = Home(path)
    settings = NodeSection(name="first", role="master", bind=ADDRESS[0])
    init_cluster(home, settings, cluster_name="three", recovery_passphrase=PASSPHRASE)
    secret = bytes(32)
    write(
        home,
        CreateJoinToken(
            token_id="0123456789abcdef",
            secret_hash=secret,
            role=Role.MASTER,
            expires_at_ms=2**52,
            uses_max=2,
            addresses=(),
        ),
        *(
            RedeemJoinToken(
                token_id="0123456789abcdef",
                secret_hash=secret,
                did=other.did,
                name=f"other-{number}",
                endpoints=("127.0.0.1:1",),
                seal_key=SealKey.create().public_key,
            )
            for number, other in enumerate(OTHERS)
        ),
        voters=tuple(voter_id(o.node_id, n) for n, o in enumerate(OTHERS, start=2)),
    )
    write(home, ProposeConfig(values={"user.last": "acknowledged"}))
    own = Identity.load(home.identity).node_id
    save_masters(home.masters, {own: ADDRESS, OTHERS[0].node_id: ADDRESS})
    return home
