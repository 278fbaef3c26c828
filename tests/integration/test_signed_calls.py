"""Signed invocations: calls of an issuer that a member carries, on a real cluster."""

import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.codec.ucan_mint import sign_invocation
from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import Did, NodeId
from ipfs_cluster_node.v1.task_dispatch_pb2 import (
    GetTaskRequest,
    ListTasksRequest,
    SubmitTaskRequest,
    TaskSpec,
)
from tests.support.people import TEAM, Person, join, refused, signed


@dataclass
class Author:
    """A signer that is not a member, whose calls a member carries."""

    identity: Identity
    cluster_did: str
    proofs: tuple[bytes, ...]

    def submission(self, request_id: str = "r1", payload: bytes = b"") -> SubmitTaskRequest:
        spec = TaskSpec(task_type="echo", namespace="signed", payload=payload)
        return SubmitTaskRequest(request_id=request_id, spec=spec)

    def sign(self, request: Any, **changed: Any) -> str:
        """A container for a call with this request."""
        args: dict[str, Value] = {
            "namespace": "signed",
            "task_type": "echo",
            "priority": 0,
            "max_runtime_s": 600,
            "max_retries": 2,
            "count": 1,
            "request": sha256(request.SerializeToString()).digest(),
        }
        fields: dict[str, Any] = {
            "subject": Did(self.cluster_did),
            "command": "/task/submit",
            "args": args,
            "proofs": [cid_of_token(token) for token in self.proofs],
            # Late enough that it can't have been used before this young cluster began.
            "expires_s": int(time.time()) + 300,
        }
        token = sign_invocation(self.identity.private_key, **(fields | changed))
        return write_container([token, *self.proofs])


@pytest_asyncio.fixture
async def author(client: Client, operator: Identity, cluster_did: str) -> Author:
    identity = Identity.create()
    proof = signed(operator, identity.did, "/task", cluster_did)
    kept = (await client.get_caller()).delegations
    [to_operator] = [d.token for d in kept if d.audience == operator.did]
    return Author(identity, cluster_did, (to_operator, proof))


async def carried(carrier: Client, container: str, request: SubmitTaskRequest) -> str:
    """Have a member carry a signed call to the leader; returns the task's id."""
    carrier._connection.metadata = (("ucan", container),)
    answer = await carrier._connection.unary(request, timeout=20)
    return str(answer.task_id)


@pytest.mark.asyncio
async def test_a_signed_invocation_is_its_issuers_call(
    client: Client, nobody: Person, author: Author
) -> None:
    """A signed call counts whoever carries it, once, and only for what it says."""
    request = author.submission()
    once = author.sign(request)
    async with nobody.client() as carrier:
        task_id = await carried(carrier, once, request)
        assert (await client.get_task(task_id)).status.submitter_did == author.identity.did
        error = await refused(carried(carrier, once, request))
        assert error.metadata["ucan_error"] == "Replay"
        assert "server_time_s" in error.metadata
        for expected, changed in (
            ("InvalidCommand", {"command": "/task/read"}),
            ("InvalidClaim", {"expires_s": int(time.time()) + 3600}),
            ("InvalidClaim", {"args": {}}),
        ):
            error = await refused(carried(carrier, author.sign(request, **changed), request))
            assert error.metadata["ucan_error"] == expected


@pytest.mark.asyncio
async def test_who_carries_a_signed_invocation_changes_nothing_of_the_request(
    nobody: Person, author: Author
) -> None:
    """Not even what no policy judges: the payload."""
    request = author.submission(payload=b"what was signed")
    async with nobody.client() as carrier:
        for other in (
            author.submission(payload=b"what the carrier wants"),
            author.submission("another id", payload=b"what was signed"),
        ):
            error = await refused(carried(carrier, author.sign(request), other))
            assert error.metadata["ucan_error"] == "InvalidClaim"
        await carried(carrier, author.sign(request), request)


@pytest.mark.asyncio
async def test_a_signed_invocation_is_carried_out_once_whoever_leads(
    cluster: LocalCluster, client: Client, nobody: Person, author: Author
) -> None:
    """The next leader has not seen it: it gives the first answer, and does nothing again."""
    request = author.submission("once")
    container = author.sign(request)
    async with nobody.client() as carrier:
        first = await carried(carrier, container, request)
    before = {task.task_id for task in await client.list_tasks()}
    await client.transfer_leadership()
    leader = await cluster.leader(client)
    async with nobody.client() as carrier:
        carrier._connection.learn([(leader.address, NodeId(leader.node_id))])
        assert await carried(carrier, container, request) == first
        assert {task.task_id for task in await client.list_tasks()} == before


@pytest.mark.asyncio
async def test_who_is_revoked_acts_no_more_through_others(
    cluster: LocalCluster,
    client: Client,
    nobody: Person,
    author: Author,
    operator: Identity,
    tmp_path: Path,
) -> None:
    member = await join(cluster, tmp_path, "reader")
    proof = signed(operator, member.did, "/task", author.cluster_did)
    revoked = Author(member.identity, author.cluster_did, (author.proofs[0], proof))
    request = revoked.submission("revoked")
    to_nobody = signed(member.identity, nobody.did, "/task", author.cluster_did)
    async with nobody.client() as carrier:
        await carried(carrier, revoked.sign(request), request)
        carrier._connection.metadata = ()
        await carrier.put_delegation([proof, to_nobody])
        await carrier.submit_task("echo")
        await client.revoke_certificate(did=member.did)
        error = await refused(carried(carrier, revoked.sign(request), request))
        assert error.metadata["ucan_error"] == "Revoked"
        # And what it delegated is no longer valid.
        carrier._connection.metadata = ()
        error = await refused(carrier.submit_task("echo"))
        assert error.metadata["ucan_error"] == "Revoked"


@pytest.mark.asyncio
async def test_a_signed_list_shows_what_its_issuer_may_read(
    client: Client, nobody: Person, author: Author, operator: Identity
) -> None:
    """Its policies judge each item, as with any list, and not the call."""
    seen = await client.submit_task("echo", namespace="team-a/signed")
    hidden = await client.submit_task("echo", namespace="team-b")
    proof = signed(operator, author.identity.did, "/task/read", author.cluster_did, TEAM)
    reader = Author(author.identity, author.cluster_did, (author.proofs[0], proof))
    request = ListTasksRequest(page_size=1000)
    args: dict[str, Value] = {"request": sha256(request.SerializeToString()).digest()}
    container = reader.sign(request, command="/task/read", args=args)
    async with nobody.client() as carrier:
        carrier._connection.metadata = (("ucan", container),)
        listed = await carrier._connection.unary(request, timeout=20)
    ids = {task.task_id for task in listed.tasks}
    assert seen in ids
    assert hidden not in ids


@pytest.mark.asyncio
async def test_a_signed_call_tells_nothing_to_who_has_no_right(
    client: Client, nobody: Person, cluster_did: str
) -> None:
    """Once a correct guess of a task's values was answered differently from a wrong one."""
    task_id = await client.submit_task("echo", namespace="secret")
    stranger = Author(Identity.create(), cluster_did, ())
    told = set()
    async with nobody.client() as carrier:
        for namespace, named in (("secret", task_id), ("other", task_id), ("secret", "no-such")):
            request = GetTaskRequest(task_id=named)
            args = {
                "namespace": namespace,
                "task_type": "echo",
                "owner": (await client.get_caller()).did,
                "self": False,
                "request": sha256(request.SerializeToString()).digest(),
            }
            container = stranger.sign(request, command="/task/read", args=args)
            carrier._connection.metadata = (("ucan", container),)
            error = await refused(carrier.get_task(named))
            told.add((error.reason, error.metadata["ucan_error"]))
    assert told == {(Reason.NOT_DELEGATED, "InvalidClaim")}


@pytest.mark.asyncio
async def test_no_call_is_signed_of_which_the_half_is_open_or_which_would_be_the_carriers(
    client: Client, nobody: Person, author: Author, operator: Identity, tmp_path: Path
) -> None:
    whole = signed(operator, author.identity.did, "/", author.cluster_did)
    able = Author(author.identity, author.cluster_did, (author.proofs[0], whole))
    container = able.sign(author.submission(), command="/content/add", args={})
    path = tmp_path / "file"
    path.write_bytes(b"x")
    async with nobody.client(ucan=container) as carrier:
        for call in (carrier.add_content(path), carrier.get_caller()):
            error = await refused(call)
            assert error.reason is Reason.NOT_DELEGATED
            assert "no signed invocation" in error.message
