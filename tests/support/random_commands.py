"""Random commands of every kind, about few enough things that they meet."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.certificates import CertificateRecord, CertificateRevocation
from ipfs_cluster_node.core.delegations import StoredDelegation, StoredRevocation
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId, did_from_public_key, node_id_from_did
from ipfs_cluster_node.core.model import (
    AttemptId,
    AttemptOutcome,
    Principal,
    Role,
    TaskFailure,
    TaskInput,
    TaskResult,
    TaskSpec,
)
from ipfs_cluster_node.core.multiformats import DAG_CBOR, cid_of
from ipfs_cluster_node.core.state import ClusterState

KINDS: tuple[type[Any], ...] = get_args(c.CommandBody)
STEPS_MS = (0, 0, 1, 10, 100, 1000, 1000, 1000, 60_000, 60_000, 3_600_000, 5 * 86_400_000)
DIDS = [did_from_public_key(bytes([number]) * 32) for number in range(16)]
CLUSTER = DIDS[0]
CIDS = [cid_of(DAG_CBOR, bytes([number])) for number in range(8)]
SETTINGS = (
    ("user.a", "1"),
    ("user.a", "2"),
    ("user.b", "1"),
    ("user.a", ""),
    ("user.b", ""),
    ("task_count_max", "2"),
    ("task_count_max", "100"),
    ("task_ended_keep_min", "0"),
    ("task_retention", "1m"),
    ("request_retention", "1m"),
    ("node_lease", "1h"),
)


class RandomCommands:
    """An endless history; the same for the same seed and state."""

    def __init__(self, seed: int, state: ClusterState) -> None:
        self._rng = random.Random(seed)
        self._state = state
        self._now_ms = 1_800_000_000_000
        self._tasks = 0
        self._before = c.LogCommand(at_ms=self._now_ms, body=c.ExpireRecords())
        self._makers: dict[type[Any], Callable[[], c.CommandBody]] = {
            c.BootstrapCluster: self._bootstrap,
            c.CreateJoinToken: self._create_token,
            c.RevokeJoinToken: lambda: c.RevokeJoinToken(token_id=self._token()),
            c.DecideJoiner: self._decide,
            c.RedeemJoinToken: self._redeem,
            c.RegisterNode: self._register,
            c.SetLiveness: self._liveness,
            c.RemoveNode: lambda: c.RemoveNode(node_id=self._node()),
            c.ReplaceLog: self._replace_log,
            c.ProposeConfig: self._config,
            c.SubmitTasks: self._submit,
            c.AssignTasks: lambda: c.AssignTasks(
                assignments=tuple((self._task(), self._worker()) for _ in range(4))
            ),
            c.FinishAttempts: self._finish,
            c.RequeueAttempts: lambda: c.RequeueAttempts(ids=(self._attempt(), self._attempt())),
            c.CancelTask: lambda: c.CancelTask(task_id=self._task()),
            c.TimeOutTasks: lambda: c.TimeOutTasks(task_ids=(self._task(), self._task())),
            c.ExpireRecords: lambda: c.ExpireRecords(
                count_max=self._rng.choice((0, 1, 2)), goes_on=self._rng.random() < 0.3
            ),
            c.AddContent: lambda: c.AddContent(
                cid=self._content(),
                size_bytes=1,
                holders=(self._node(),),
                name="f",
                goes_with=self._rng.choice((TaskId(""), self._task())),
                namespace=self._namespace(),
            ),
            c.RemoveContent: lambda: c.RemoveContent(
                cid=self._content(), namespace=self._namespace()
            ),
            c.KeepContent: lambda: c.KeepContent(
                cid=self._content(), among=tuple(filter(None, (self._namespace(),)))
            ),
            c.PutDelegation: lambda: c.PutDelegation(
                delegations=(self._delegation(), self._delegation())
            ),
            c.RevokeDelegation: self._revoke_delegation,
            c.IssueCertificate: lambda: c.IssueCertificate(record=self._certificate()),
            c.RevokeCertificate: self._revoke_certificate,
            c.SetAuthority: self._set_authority,
        }
        assert self._makers.keys() == set(KINDS)

    def __iter__(self) -> Iterator[c.LogCommand]:
        yield c.LogCommand(at_ms=self._now_ms, body=self._bootstrap())
        while True:
            self._now_ms += self._rng.choice(STEPS_MS)
            if self._rng.random() < 0.1:  # A repeat, or another request under the same id.
                yield replace(self._before, at_ms=self._now_ms)
            kind = self._rng.choice([kind for kind in KINDS if kind is not c.RemoveNode])
            if self._rng.random() < 0.01:
                kind = c.RemoveNode
            named = self._rng.random() < 0.5
            self._before = c.LogCommand(
                at_ms=self._now_ms,
                body=self._makers[kind](),
                caller=self._did() if named else "",
                request_id=f"r{self._rng.randrange(50)}" if named else "",
            )
            yield self._before

    def _did(self) -> Did:
        return self._rng.choice(DIDS)

    def _node(self) -> NodeId:
        return node_id_from_did(self._did())

    def _worker(self) -> NodeId:
        nodes = [node.node_id for node in self._state.members.nodes()]
        return self._rng.choice(nodes) if nodes else self._node()

    def _token(self) -> str:
        return f"k{self._rng.randrange(4)}"

    def _content(self) -> str:
        return f"c{self._rng.randrange(4)}"

    def _namespace(self) -> str:
        return self._rng.choice(("", "team-a", "team-b"))

    def _task(self) -> TaskId:
        return TaskId(f"t{self._rng.randrange(max(0, self._tasks - 8), self._tasks + 1)}")

    def _attempt(self) -> AttemptId:
        task = self._state.tasks.get(task_id := self._task())
        return AttemptId(task_id, task.attempt if task else 1)

    def _until_s(self) -> int:
        return self._now_ms // 1000 + self._rng.choice((-1000, 60, 86_400))

    def _bootstrap(self) -> c.BootstrapCluster:
        return c.BootstrapCluster(
            cluster_id="id",
            cluster_name="name",
            cluster_did=CLUSTER,
            principals=tuple(
                Principal(
                    did=did,
                    name="n",
                    role=role,
                    enrolled_at_ms=1,
                    liveness_at_ms=1,
                    incarnation=1 if role is Role.MASTER else 0,
                    grant="admin" if role is Role.CLIENT else "",
                )
                for did, role in zip(DIDS[1:], Role, strict=False)
            ),
            delegations=(self._delegation(),),
            authority=replace(self._state.certificates.authority, version=1, key_id="a"),
            certificates=(self._certificate(),),
        )

    def _create_token(self) -> c.CreateJoinToken:
        return c.CreateJoinToken(
            token_id=self._token(),
            secret_hash=b"s",
            role=self._rng.choice(list(Role)),
            expires_at_ms=self._now_ms + 86_400_000,
            uses_max=2,
            addresses=(),
            namespace="team-a/*" if self._now_ms % 2 else "",
            needs_approval=self._rng.random() < 0.5,
        )

    def _redeem(self) -> c.RedeemJoinToken:
        token_id, waiting = self._waiting()
        return c.RedeemJoinToken(
            token_id=token_id,
            secret_hash=self._rng.choice((b"s", b"s", b"s", b"wrong")),
            did=self._rng.choice((*waiting, *waiting, self._did())),
            name="n",
            endpoints=(),
        )

    def _decide(self) -> c.DecideJoiner:
        token_id, waiting = self._waiting()
        did = self._rng.choice(waiting or DIDS)
        return c.DecideJoiner(token_id=token_id, did=did, approved=self._rng.random() < 0.8)

    def _waiting(self) -> tuple[str, list[Did]]:
        """A token, and the joiners that showed it."""
        token = self._state.members.token(token_id := self._token())
        return token_id, [joiner.did for joiner in token.joiners] if token else []

    def _register(self) -> c.RegisterNode:
        return c.RegisterNode(
            node_id=self._node(), endpoints=(), task_types=("echo",), slot_count=1, version="1"
        )

    def _liveness(self) -> c.SetLiveness:
        nodes = tuple(map(node_id_from_did, self._rng.sample(DIDS, 4)))
        return c.SetLiveness(alive=nodes[:2], dead=nodes[2:])

    def _replace_log(self) -> c.ReplaceLog:
        node = self._state.members.node(node_id := self._node())
        return c.ReplaceLog(node_id=node_id, incarnation=node.incarnation if node else 1)

    def _config(self) -> c.ProposeConfig:
        reset = {"task_retention": ""} if self._now_ms % 3 == 1 else {}
        return c.ProposeConfig(
            values=reset | dict(self._rng.sample(SETTINGS, 2)), with_version=self._now_ms % 3 != 0
        )

    def _submit(self) -> c.SubmitTasks:
        numbers = range(self._tasks, self._tasks + self._rng.randint(1, 3))
        self._tasks = numbers.stop
        return c.SubmitTasks(
            task_ids=tuple(TaskId(f"t{number}") for number in numbers),
            specs=tuple(
                TaskSpec(
                    task_type="echo",
                    payload=b"x",
                    attempt_count_max=2,
                    inputs=(TaskInput("t", self._content()),) if number % 4 == 0 else (),
                    task_timeout_ms=(0, 1, 60_000)[number % 3],
                    keep_result=number % 5 == 0,
                )
                for number in numbers
            ),
            fingerprint=bytes([numbers.start % 256]),
            with_history=numbers.start % 2 == 0,
        )

    def _finish(self) -> c.FinishAttempts:
        node_id = self._worker()
        attempts = (*self._state.tasks.running_on(node_id)[:2], self._attempt())
        return c.FinishAttempts(node_id=node_id, outcomes=tuple(map(self._outcome, attempts)))

    def _outcome(self, attempt: AttemptId) -> AttemptOutcome:
        if self._rng.random() < 0.5:
            return AttemptOutcome(id=attempt, result=TaskResult(data=b"r", cid=self._content()))
        reason = self._rng.choice((Reason.HANDLER_FAILED, Reason.WORKER_LOST))
        return AttemptOutcome(
            id=attempt,
            failure=TaskFailure(reason, "no"),
            retryable=True,
            handed_back=reason is Reason.WORKER_LOST and self._rng.random() < 0.5,
        )

    def _delegation(self) -> StoredDelegation:
        issuer = self._rng.choice((CLUSTER, self._did()))
        return StoredDelegation(
            cid=self._rng.choice(CIDS),
            token=b"t",
            issuer=issuer,
            audience=self._did(),
            expires_s=self._until_s(),
            put_by="" if issuer == CLUSTER else issuer,
            command="/" if issuer == CLUSTER and self._now_ms % 2 else "",
        )

    def _revoke_delegation(self) -> c.RevokeDelegation:
        revoker = self._rng.choice((CLUSTER, self._did()))
        revocation, copy = (
            StoredRevocation(cid, revoker, self._until_s()) for cid in self._rng.sample(CIDS, 2)
        )
        return c.RevokeDelegation(revocation=revocation, copies=(copy,))

    def _certificate(self) -> CertificateRecord:
        serial = self._rng.randrange(1, 1000)
        return CertificateRecord(
            serial=serial,
            did=self._did(),
            spki_hash=bytes([serial % 256]) * 32,
            not_after_s=self._until_s(),
            issued_at_ms=self._now_ms,
            epoch=self._state.certificates.authority.epoch,
        )

    def _revoke_certificate(self) -> c.RevokeCertificate:
        issued = self._state.certificates.records()
        if issued and self._rng.random() < 0.8:
            serial = self._rng.choice(issued).serial
            revocation = CertificateRevocation(serial=serial, until_s=self._until_s())
        else:
            revocation = CertificateRevocation(did=self._rng.choice(DIDS[-3:]))
        return c.RevokeCertificate(revocation=revocation)

    def _set_authority(self) -> c.SetAuthority:
        authority = self._state.certificates.authority
        version = authority.version + self._rng.choice((1, 1, 2))
        return c.SetAuthority(authority=replace(authority, version=version))
