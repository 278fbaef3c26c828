"""Makes every call of `largest_requests` on a large cluster, and measures the effects."""

import asyncio
import hashlib
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.cluster.delegations import TOKENS_MAX
from ipfs_cluster_node.codec.metadata import UCAN_KEY
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.config.credentials import read_credentials
from ipfs_cluster_node.core.ids import Did, NodeId, did_from_public_key
from ipfs_cluster_node.core.multiformats import parse_cid
from ipfs_cluster_node.node.files import load_files
from ipfs_cluster_node.services.content import BLOCKS_PER_REQUEST_MAX
from tests.support.large_cluster import start_large, task_id_of
from tests.support.largest_requests import LARGEST, Answer, Scene, call, overfull
from tests.support.people import join, signed, strip

POLICY_STATEMENTS: Final = 120


@dataclass(frozen=True)
class Finding:
    """The effects of two concurrent calls on the leader."""

    method: str
    by: str
    answers: tuple[Answer, ...]
    term: int
    gap_seconds: float
    """The longest gap of the leader's loop so far, in the last minute."""
    followers_gap_seconds: float
    """The same for the followers: how long the machine itself holds up a loop."""
    illegal: str = ""
    """The field that was filled beyond its bound."""
    kept_bytes: int = 0
    """By how much the leader's memory grew."""

    @property
    def failed(self) -> bool:
        """Whether it got an answer that it must not get, or left memory behind."""
        # Two sessions of one worker: the newer takes the place of the older.
        ends = self.method.endswith("/WorkerSession")
        if self.illegal:
            refused = [answer for answer in self.answers if answer.code in REFUSED]
            enough = len(refused) >= (1 if ends else len(self.answers))
            return not enough or self.kept_bytes > KEPT_BYTES_MAX
        return not ends and any(answer.code in NEVER for answer in self.answers)

    def __str__(self) -> str:
        """A line of a report."""
        told = "; ".join(
            f"{a.seconds:.2f} s {a.size_bytes / 1e6:.1f} MB"
            + (f" {a.code.name} {a.detail[:90]}" if a.code else "")
            for a in self.answers
        )
        return f"{self.gap_seconds * 1000:5.0f} ms ({self.followers_gap_seconds * 1000:.0f})  term {self.term}  {self.method} by {self.by}{self.illegal and f' ({self.illegal} overfull)'}: {told}"


NEVER: Final = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNIMPLEMENTED,
}


REFUSED: Final = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
KEPT_BYTES_MAX: Final = 100 * 2**20
"""How much memory two refused requests may add to the leader: two of four million elements once
took half a gigabyte, and kept it."""


def memory_bytes(node: LocalNode) -> int:
    """A node's resident memory."""
    assert node.process is not None
    pages = Path(f"/proc/{node.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def long_policy(field_name: str) -> list[list[str]]:
    """One that holds, and is as long as a token may be."""
    return [["!=", field_name, f"{n:04d}"] for n in range(POLICY_STATEMENTS)]


async def run_all(cluster: LocalCluster, *, files: int, tasks: int) -> list[Finding]:
    """Start a large cluster, and make every call at its largest, two at once."""
    await start_large(cluster, files=files, tasks=tasks)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(cluster.client())
        leader = await cluster.leader(client)
        worker = next(node for node in cluster.nodes if node.role == "worker")
        followers = [n for n in cluster.nodes if n.role == "master" and n is not leader]
        other = followers[0]
        operator = Identity.load(cluster.profile.certificate.parent / "identity.key")
        cluster_did = (await client.get_caller()).cluster_did
        judged = await join(cluster, cluster.root, "reader")
        await strip(cluster, judged)
        tokens = {
            command: signed(operator, judged.did, command, cluster_did, policy)
            for command, policy in (
                ("/task", long_policy(".namespace")),
                ("/content/read", long_policy(".cid")),
                ("/state/read", long_policy(".cid")),
                ("/cluster", []),
                ("/admin", []),
                ("/ucan", long_policy(".audience")),
            )
        }
        path = cluster.root / "file"
        path.write_bytes(os.urandom(BLOCKS_PER_REQUEST_MAX * 256 * 1024))
        added = await client.add_content(path)
        stored = [
            parse_cid(each.name).binary
            for each in (leader.home.path / "content").glob("??/bafkrei*")
        ]
        scene = Scene(
            leader_id=leader.node_id,
            worker_id=worker.node_id,
            task_ids=[task_id_of(n) for n in range(tasks)],
            file_cid=added.cid,
            block_cids=stored,
            tokens=[
                signed(operator, did_of(n), "/task", cluster_did, long_policy(".namespace"))
                for n in range(TOKENS_MAX)
            ],
        )
        address, node_id = leader.address, NodeId(leader.node_id)
        channels = {
            "operator": open_channel(address, tls=person_tls(cluster), node_id=node_id),
            "judged": open_channel(address, tls=judged.tls, node_id=node_id),
            "worker": open_channel(address, tls=load_files(worker.home).tls, node_id=node_id),
            "master": open_channel(address, tls=load_files(other.home).tls, node_id=node_id),
            "joiner": open_channel(
                f"127.0.0.1:{leader.enrolment_port}",
                tls=None,
                ca_pem=cluster.profile.ca.read_bytes(),
            ),
        }
        for channel in channels.values():
            stack.push_async_callback(channel.close)
        findings: list[Finding] = []
        methods = {method.rpartition(".")[2]: method for method in RULES_BY_METHOD}
        for name, make in LARGEST.items():
            # As many as a call's metadata have room for.
            asked = str(RULES_BY_METHOD[methods[name]].command)
            needed = [token for command, token in tokens.items() if asked.startswith(command)]
            if "Submit" in name:
                needed.append(tokens["/content/read"])
            brought = {"judged": ((UCAN_KEY, write_container(needed)),)} if needed else {}
            ones, twos = make(scene), make(scene)
            beyond = overfull(methods[name], ones[0].by)
            for one, two in zip([*ones, *beyond], [*twos, *beyond], strict=True):
                before = memory_bytes(leader)
                answers = await asyncio.gather(
                    *(
                        call(channels[each.by], methods[name], each, brought.get(each.by, ()))
                        for each in (one, two)
                    )
                )
                health = await client.get_health(leader.address, leader.node_id)
                others = [await client.get_health(f.address, f.node_id) for f in followers]
                findings.append(
                    Finding(
                        name,
                        one.by,
                        tuple(answers),
                        health.raft.term,
                        health.loop_gap_seconds,
                        max(each.loop_gap_seconds for each in others),
                        one.illegal,
                        memory_bytes(leader) - before,
                    )
                )
        return findings


def elections(cluster: LocalCluster) -> list[str]:
    """What the nodes logged of elections, and why they stopped leading."""
    told = ("asks for votes", "leadership changed", "stops leading")
    return [
        f"{node.name}: {line}"
        for node in cluster.nodes
        for line in (node.home.path / "log").read_text(errors="replace").splitlines()
        if any(each in line for each in told)
    ]


def person_tls(cluster: LocalCluster) -> ClientTls:
    """What the operator shows."""
    profile = cluster.profile
    kept = read_credentials(profile.ca, profile.certificate, profile.key)
    return ClientTls(kept.ca_pem, kept.certificate_pem, kept.key_pem)


def did_of(number: int) -> Did:
    """The DID of an unknown principal."""
    return did_from_public_key(hashlib.sha256(b"%d" % number).digest())
