"""Clients may do what was delegated to them, at every call of a real cluster."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.connection import send_all
from ipfs_cluster_node.cluster.delegations import TOKENS_MAX
from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.views import AccessExplanation
from ipfs_cluster_node.v1 import authorization_pb2 as pb
from ipfs_cluster_node.v1 import content_pb2
from ipfs_cluster_node.v1.task_dispatch_pb2 import GetTaskRequest
from tests.support.people import TEAM, Person, join, refused, signed

WAIT = timedelta(seconds=30)


@pytest.mark.asyncio
async def test_a_client_may_what_its_grant_says(cluster: LocalCluster, tmp_path: Path) -> None:
    reader = await join(cluster, tmp_path, "reader")
    async with reader.client() as client:
        assert await client.list_nodes()
        assert [entry.key for entry in await client.get_config()]
        error = await refused(client.submit_task("echo"))
        assert error.reason is Reason.NOT_DELEGATED
        assert error.metadata["command"] == "/task/submit"
        assert error.metadata["ucan_error"] == "InvalidCommand"
        assert (await refused(client.create_join_token("client"))).reason is Reason.NOT_DELEGATED
    user = await join(cluster, tmp_path, "user")
    async with user.client() as client:
        task_id = await client.submit_task("echo", "hello")
        assert (await client.wait_tasks([task_id], timeout=WAIT))[task_id].status.result is not None
        error = await refused(client.propose_config({"user.x": "1"}))
        assert error.reason is Reason.NOT_DELEGATED


@pytest.mark.asyncio
async def test_a_policy_bounds_a_delegation_and_lists_are_filtered_by_it(
    client: Client, nobody: Person, operator: Identity, cluster_did: str
) -> None:
    tokens = [
        signed(operator, nobody.did, "/task/submit", cluster_did, [*TEAM, ["<=", ".priority", 3]]),
        signed(operator, nobody.did, "/task/read", cluster_did, TEAM),
    ]
    cids = await client.put_delegation(tokens)
    assert cids == [str(cid_of_token(token)) for token in tokens]
    elsewhere = await client.submit_task("echo", namespace="team-b/x")
    evil = await client.submit_task("echo", namespace="team-a-evil")
    async with nobody.client() as limited:
        task_id = await limited.submit_task("echo", namespace="team-a/nightly")
        for namespace, priority in (("team-b/x", 0), ("team-a", 0), ("team-a/x", 4)):
            error = await refused(
                limited.submit_task("echo", namespace=namespace, priority=priority)
            )
            assert error.reason is Reason.NOT_DELEGATED
            assert error.metadata["ucan_error"] == "MatchError"
            assert error.metadata["link"] == "1"
        error = await refused(limited.submit_task("echo", namespace="team-a/../team-b"))
        assert error.reason is Reason.INVALID_ARGUMENT
        listed = await limited.list_tasks(limit=1000)
        assert str(task_id) in [task.task_id for task in listed]
        assert all(task.spec.namespace.startswith("team-a/") for task in listed)
        # No right on the state as tables.
        assert (await refused(limited.get_snapshot("tasks"))).reason is Reason.NOT_DELEGATED
        for other in (elsewhere, evil, "no-such-task"):
            assert (await refused(limited.get_task(other))).reason is Reason.NOT_DELEGATED
        assert (await refused(limited.wait_tasks([task_id, elsewhere], timeout=WAIT))).reason is (
            Reason.NOT_DELEGATED
        )


@pytest.mark.asyncio
async def test_a_task_reads_no_more_than_its_submitter_may(
    client: Client, nobody: Person, operator: Identity, cluster_did: str, tmp_path: Path
) -> None:
    path = tmp_path / "secret.csv"
    path.write_text("a\n1\n")
    added = await client.add_content(path)
    tokens = [
        signed(operator, nobody.did, "/task", cluster_did),
        signed(operator, nobody.did, "/content/read", cluster_did, [["==", ".cid", "other"]]),
    ]
    sql = {"sql": "SELECT * FROM input"}
    async with nobody.client(ucan=write_container(tokens)) as limited:
        error = await refused(
            limited.submit_task("data_processing", sql, inputs=[("input", added.cid)])
        )
        assert error.reason is Reason.NOT_DELEGATED
        # Once the right to an input that the payload names was not checked, and the worker read it.
        seed = {"input_cid": added.cid, "parameters": sql}
        error = await refused(limited.submit_task("data_processing", seed))
        assert error.reason is Reason.NOT_DELEGATED
        assert await limited.submit_task("echo")
    tokens.append(
        signed(operator, nobody.did, "/content/read", cluster_did, [["==", ".cid", added.cid]])
    )
    async with nobody.client(ucan=write_container(tokens)) as limited:
        assert await limited.submit_task("data_processing", sql, inputs=[("input", added.cid)])
        assert await limited.submit_task("data_processing", seed)


@pytest.mark.asyncio
async def test_a_chain_of_eight_costs_one_cid_once_it_is_kept(
    cluster: LocalCluster,
    client: Client,
    nobody: Person,
    operator: Identity,
    cluster_did: str,
) -> None:
    people = [operator, *(Identity.create() for _ in range(6)), nobody.identity]
    chain = [
        signed(people[n], people[n + 1].did, "/task/submit", cluster_did, [["<=", ".priority", 9]])
        for n in range(7)
    ]
    cids = await client.put_delegation(chain)
    metadata = (("ucan-proof", cids[-1]),)
    assert sum(len(key) + len(value) for key, value in metadata) < 512
    async with nobody.client() as limited:
        connection = limited._connection
        connection.metadata = metadata
        assert await limited.submit_task("echo")
        connection.metadata = (("ucan-proof", cids[0]),)
        error = await refused(limited.submit_task("echo"))
        assert error.reason is Reason.NOT_DELEGATED  # Somebody else's.
        connection.metadata = (("ucan-proof", str(cid_of_token(b"unknown"))),)
        assert (await refused(limited.submit_task("echo"))).metadata["ucan_error"] == (
            "UnavailableProof"
        )
        connection.metadata = ()
        assert await limited.submit_task("echo")  # By all that is kept for it.
        beyond = signed(nobody.identity, Identity.create().did, "/task/submit", cluster_did)
        error = await refused(limited.put_delegation([beyond]))
        assert error.metadata["ucan_error"] == "ChainTooLong"


@pytest.mark.asyncio
async def test_what_leads_from_nowhere_is_not_kept(
    client: Client, nobody: Person, operator: Identity, cluster_did: str
) -> None:
    stranger = Identity.create()
    forged = signed(stranger, nobody.did, "/task", cluster_did)
    holds = signed(operator, nobody.did, "/task", cluster_did)
    for tokens in ([forged], [holds, forged]):  # What else there is for it lets none through.
        assert (await refused(client.put_delegation(tokens))).reason is Reason.NOT_DELEGATED
    tampered = bytearray(forged)
    tampered[10] ^= 1
    error = await refused(client.put_delegation([bytes(tampered)]))
    assert error.reason is Reason.DELEGATION_INVALID
    assert error.metadata["ucan_error"] == "InvalidSignature"
    for tokens in ([], [forged] * (TOKENS_MAX + 1)):
        assert (await refused(client.put_delegation(tokens))).reason is Reason.INVALID_ARGUMENT
    async with nobody.client(ucan=write_container([forged])) as limited:
        assert (await refused(limited.submit_task("echo"))).reason is Reason.NOT_DELEGATED
    async with nobody.client(ucan="Cgarbage") as limited:
        assert (await refused(limited.submit_task("echo"))).reason is Reason.DELEGATION_INVALID


@pytest.mark.asyncio
async def test_a_delegation_about_another_subject_is_not_kept_beside_one_that_holds(
    client: Client, nobody: Person, operator: Identity, cluster_did: str
) -> None:
    holds = signed(operator, nobody.did, "/task", cluster_did)
    for foreign in (
        signed(operator, nobody.did, "/task/read", Identity.create().did),
        signed(operator, operator.did, "/task/read", Identity.create().did),
    ):
        error = await refused(client.put_delegation([holds, foreign]))
        assert error.reason is Reason.NOT_DELEGATED
        assert error.metadata["ucan_error"] == "InvalidSubject"
        assert error.metadata["cid"] == str(cid_of_token(foreign))
        assert "another subject" in error.message
    kept = {each.cid for each in await client.list_delegations(audience=nobody.did)}
    assert str(cid_of_token(holds)) not in kept  # All or nothing.


@pytest.mark.asyncio
async def test_an_explanation_tells_nothing_that_may_not_be_read(
    client: Client, nobody: Person
) -> None:
    task_id = await client.submit_task("echo", namespace="hidden")
    method = "/ipfs_cluster_node.v1.TaskDispatchService/GetTask"
    request = b"\x0a" + bytes([len(task_id)]) + task_id.encode()
    async with nobody.client() as limited:
        answer = await limited.explain_access(method, request)
        assert not answer.allowed
        assert answer.requirements[0].ucan_error == "InvalidClaim"
        assert answer.requirements[0].args_json == ""
        other = (await client.get_caller()).did
        error = await refused(limited.explain_access(method, request, did=other))
        assert error.reason is Reason.NOT_DELEGATED
        error = await refused(limited.explain_access("/no/such", b""))
        assert error.reason is Reason.INVALID_ARGUMENT
        error = await refused(limited.explain_access(method, b"\xff"))
        assert error.reason is Reason.INVALID_ARGUMENT
    answer = await client.explain_access(method, request, did=nobody.did)
    assert not answer.allowed
    assert (await client.explain_access(method, request)).requirements[0].args_json


@pytest.mark.asyncio
async def test_an_explanation_agrees_with_methods_that_decide_themselves(
    client: Client, nobody: Person, operator: Identity, cluster_did: str
) -> None:
    (other,) = await client.put_delegation([signed(operator, nobody.did, "/task", cluster_did)])
    own = signed(nobody.identity, Identity.create().did, "/task/read", cluster_did)
    forged = signed(nobody.identity, Identity.create().did, "/config", cluster_did)
    missing = str(cid_of_token(own))
    may_revoke = signed(operator, nobody.did, "/ucan/revoke", cluster_did)
    names = set()

    async def explained(message: Any, caller: Client, **more: Any) -> AccessExplanation:
        method = type(message).__name__.removesuffix("Request")
        name = f"/ipfs_cluster_node.v1.AuthorizationService/{method}"
        names.add(name)
        return await caller.explain_access(name, message.SerializeToString(), **more)

    async with nobody.client() as limited:
        denied = await explained(pb.RevokeDelegationRequest(cid=other), limited)
        assert not denied.allowed
        assert denied.requirements[0].command == "/ucan/revoke"
        assert denied.requirements[0].args_json == ""  # Whose it is.
        assert (await refused(limited.revoke_delegation(other))).reason is Reason.NOT_DELEGATED
        assert (await explained(pb.RevokeDelegationRequest(cid=other), client)).allowed
        assert (
            await refused(explained(pb.RevokeDelegationRequest(cid=missing), limited))
        ).reason is Reason.DELEGATION_NOT_FOUND
        assert (
            await explained(pb.RevokeDelegationRequest(cid=missing, path=[own]), limited)
        ).allowed  # By a link of its chain, which it issued.

        assert (await explained(pb.PutDelegationRequest(tokens=[own]), limited)).allowed
        unfounded = await explained(pb.PutDelegationRequest(tokens=[own, forged]), limited)
        assert [each.allowed for each in unfounded.requirements] == [True, False]
        assert not unfounded.allowed
        error = await refused(limited.put_delegation([own, forged]))
        assert error.metadata["ucan_error"] == unfounded.requirements[1].ucan_error

        method = "/ipfs_cluster_node.v1.TaskDispatchService/GetTask"
        about = pb.ExplainAccessRequest(did=operator.did, method=method)
        assert not (await explained(about, limited)).allowed
        assert (await refused(limited.explain_access(method, b"", did=operator.did))).reason is (
            Reason.NOT_DELEGATED
        )
        assert (await explained(pb.ExplainAccessRequest(method=method), limited)).allowed
        held = signed(nobody.identity, operator.did, "/task/read", cluster_did)
        for message in (pb.RevokeDelegationRequest(cid=other), pb.ListDelegationsRequest()):
            told = explained(message, limited, did=operator.did, tokens=[held])
            assert (await refused(told)).reason is Reason.NOT_DELEGATED  # Not by what else it has.
        assert (await explained(about, client)).allowed
        assert (await explained(pb.ListDelegationsRequest(), limited)).allowed
        assert (await explained(pb.GetCallerRequest(), limited)).allowed

        await client.put_delegation([may_revoke])
        allowed = await explained(pb.RevokeDelegationRequest(cid=other), limited)
        assert allowed.allowed
        assert [link.holds for link in allowed.requirements[0].chain] == [True, True]
        await limited.revoke_delegation(other)
        assert (await explained(pb.RevokeDelegationRequest(cid=other), limited)).allowed
    assert names >= {name for name, rule in RULES_BY_METHOD.items() if rule.decides_itself}


@pytest.mark.asyncio
async def test_more_than_was_announced_is_refused_as_it_comes(
    cluster: LocalCluster, client: Client, nobody: Person, operator: Identity, cluster_did: str
) -> None:
    """Otherwise a policy on the size would judge a file by the size that its sender claims."""
    policy = [["<=", ".size", 10]]
    token = signed(operator, nobody.did, "/content/add", cluster_did, policy)
    leader = await cluster.leader(client)
    tls = ClientTls(
        nobody.profile.ca.read_bytes(),
        nobody.profile.certificate.read_bytes(),
        nobody.profile.key.read_bytes(),
    )
    metadata = (("ucan", write_container([token])),)
    method = "/ipfs_cluster_node.v1.ContentService/AddContent"
    async with open_channel(leader.address, tls=tls, node_id=NodeId(leader.node_id)) as channel:
        for size, data, reason in (
            (11, b"x" * 11, Reason.NOT_DELEGATED),
            (-1, b"x", Reason.NOT_DELEGATED),
            (10, b"x" * 11, Reason.INVALID_ARGUMENT),
            (10, b"x" * 10, None),
        ):
            header = content_pb2.AddContentHeader(
                request_id=f"size-{size}-{len(data)}", size_bytes=size
            )
            call: Any = channel.stream_unary(method)(metadata=metadata, timeout=20)
            assert await _sent(call, header, data) is reason


async def _sent(call: Any, header: content_pb2.AddContentHeader, data: bytes) -> Reason | None:
    """Send a file; returns why it was refused."""
    parts = (content_pb2.AddContentRequest(header=header), content_pb2.AddContentRequest(data=data))

    async def requests() -> AsyncIterator[bytes]:
        for part in parts:
            yield part.SerializeToString()

    try:
        await send_all(call, requests())
    except ClusterError as error:
        return error.reason
    return None


@pytest.mark.asyncio
async def test_an_explanation_shows_nothing_by_the_eyes_of_who_delegated(
    client: Client, nobody: Person, operator: Identity, cluster_did: str
) -> None:
    """Once any question about anybody was answered to a caller with a token of its own making."""
    task_id = await client.submit_task("echo", namespace="team-b")
    method = "/ipfs_cluster_node.v1.TaskDispatchService/GetTask"
    asked = GetTaskRequest(task_id=task_id).SerializeToString()
    narrow = signed(operator, nobody.did, "/task/read", cluster_did, TEAM)
    await client.put_delegation([narrow])
    for audience in (Identity.create().did, operator.did):
        own = signed(nobody.identity, audience, "/task/read", cluster_did)
        async with nobody.client() as limited:
            assert (await refused(limited.get_task(task_id))).reason is Reason.NOT_DELEGATED
            explain = limited.explain_access(method, asked, did=operator.did, tokens=[own])
            if audience != operator.did:
                assert (await refused(explain)).reason is Reason.NOT_DELEGATED
                continue
            answer = await explain
            assert not answer.allowed
            assert not answer.requirements[0].args_json
            many = limited.explain_access(method, asked, tokens=[own] * 33)
            assert (await refused(many)).reason is Reason.INVALID_ARGUMENT
    async with nobody.client() as limited:
        assert not (await limited.explain_access(method, asked)).allowed


@pytest.mark.asyncio
async def test_two_ways_to_bring_tokens_at_once_are_refused(
    cluster: LocalCluster, client: Client
) -> None:
    connection = client._connection
    connection.metadata = (("ucan", write_container([])), ("ucan-proof", "bafy"))
    assert (await refused(client.submit_task("echo"))).reason is Reason.INVALID_ARGUMENT
    connection.metadata = (("ucan", "C" + 17_000 * "A"),)
    soon = timedelta(seconds=2)  # gRPC refuses so much, and the client asks again.
    assert isinstance(await refused(client.submit_task("echo", timeout=soon)), ClusterError)


def test_the_command_line_delegates_explains_and_revokes(
    cluster: LocalCluster, cli: Any, tmp_path: Path
) -> None:
    enrolment = f"127.0.0.1:{cluster.enrolment_port}"
    token = cli("token", "create", "--role", "client", "--grant", "reader").stdout.strip()
    home = str(tmp_path / "bob")
    done = cli("join", token, "--enrolment", enrolment, "--home", home, "--profile-name", "bob")
    assert done.returncode == 0, done.stderr
    bob = json.loads(cli("--profile", "bob", "auth", "whoami", "--json").stdout)["did"]
    submit = "task submit echo --namespace team-a/x"
    plain = cli("auth", "explain", "--as", bob, "--do", submit)
    assert plain.returncode == 4
    assert plain.stdout.splitlines()[0] == "DENIED: SubmitTask"
    assert "  it may not submit tasks (/task/submit), with namespace=team-a/x" in plain.stdout
    assert "InvalidCommand" not in plain.stdout
    denied = cli("auth", "explain", "--as", bob, "--do", submit, "-v")
    assert denied.returncode == 4
    assert "DENIED" in denied.stdout
    assert "InvalidCommand" in denied.stdout
    made = cli(
        *("token", "delegate", bob, "/task/submit", "--where", "namespace=team-a/*"),
        *("--most", "priority=3", "--ttl", "1h", "--json"),
    )
    assert made.returncode == 0, made.stderr
    cid = json.loads(made.stdout)["cid"]
    allowed = json.loads(cli("auth", "explain", "--as", bob, "--do", submit, "--json").stdout)
    assert allowed["allowed"]
    assert [link["holds"] for link in allowed["asks"][0]["chain"]] == [True, True]
    worse = cli("auth", "explain", "--as", bob, "--do", f"{submit} --priority 4", "-v")
    assert worse.returncode == 4
    assert "NOT VALID" in worse.stdout
    assert "MatchError" in worse.stdout
    assert cli("--profile", "bob", *submit.split()).returncode == 0
    assert cli("--profile", "bob", "task", "submit", "echo").returncode == 4
    shown = cli("token", "inspect", cid)
    assert "team-a/*" in shown.stdout
    assert cid in cli("token", "list", "--audience", bob).stdout
    assert cli("auth", "explain", "--as", bob, "--do", f"token revoke {cid}").returncode == 4
    assert cli("token", "revoke", cid).returncode == 0
    assert cli("--profile", "bob", *submit.split()).returncode == 4
    printed = cli("token", "delegate", bob, "/task/submit", "--print").stdout.strip()
    assert cli("--profile", "bob", "--ucan", printed, "task", "submit", "echo").returncode == 0
    assert json.loads(cli("token", "inspect", printed, "--json").stdout)
    assert cli("token", "explain", printed, "--do", "task submit echo").returncode == 0
    for wrong in (
        ("token", "delegate", bob, "task/submit"),
        ("token", "delegate", "did:key:z6MkX", "/task"),
        ("token", "delegate", bob, "/task", "--ttl", "401d"),
        ("token", "delegate", bob, "/task", "--ttl", "999999999.9d"),
        ("token", "delegate", bob, "/task", "--ttl", "0s", "--print"),
        ("token", "delegate", bob, "/task", "--where", "namespace=team-a*"),
        ("token", "delegate", bob, "/task", "--policy", '[["!=", ".owner", "x"]]'),
        ("auth", "explain", "--do", "task nonsense"),
    ):
        bad = cli(*wrong)
        assert bad.returncode == 2, (wrong, bad)
        assert "Traceback" not in bad.stderr
