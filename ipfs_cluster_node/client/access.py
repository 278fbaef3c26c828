"""Client operations on permissions and the audit log."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import grpc

from ipfs_cluster_node.client.calls import TIMEOUT_DEFAULT, Calls, listed
from ipfs_cluster_node.client.connection import new_request_id
from ipfs_cluster_node.codec import views as codecs
from ipfs_cluster_node.codec.enums import OUTCOME
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.core.audit import AuditRecord
from ipfs_cluster_node.core.ids import Did, NodeId
from ipfs_cluster_node.core.views import AccessExplanation, CallerStatus, ListedDelegation
from ipfs_cluster_node.v1 import audit_pb2
from ipfs_cluster_node.v1 import authorization_pb2 as pb
from ipfs_cluster_node.v1.audit_pb2_grpc import AuditServiceStub


class AccessCalls(Calls):
    """The operations of AuthorizationService and AuditService."""

    async def get_caller(self, *, timeout: timedelta = TIMEOUT_DEFAULT) -> CallerStatus:
        """This client's identity in the cluster, and the delegations to it."""
        request = pb.GetCallerRequest()
        answers: list[pb.GetCallerResponse] = []

        async def ask() -> pb.GetCallerResponse:
            answers.append(await self._unary(request, timeout))
            return answers[-1]

        found = await listed(ask, request, "delegations", codecs.DELEGATION.decode)
        return replace(codecs.CALLER.decode(answers[0]), delegations=tuple(found))

    async def put_delegation(
        self, tokens: Sequence[bytes], *, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> list[str]:
        """Store delegations, so that calls need not carry them; returns their CIDs.

        Raises:
            ClusterError: DELEGATION_INVALID, NOT_DELEGATED if no chain leads from them to the
                cluster, TOO_MANY_DELEGATIONS.
        """
        request = pb.PutDelegationRequest(request_id=new_request_id(), tokens=tokens)
        response = await self._unary(request, timeout)
        return list(response.cids)

    async def list_delegations(
        self,
        *,
        audience: str = "",
        cid_prefix: str = "",
        limit: int | None = None,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> list[ListedDelegation]:
        """The stored delegations that this client may see, by CID; of one audience or all.

        With `cid_prefix` only those whose CID begins with it; with `limit` at most so many.
        """
        if audience:
            audience = await self.lookups.did(audience, timeout)
        request = pb.ListDelegationsRequest(audience=audience, cid_prefix=cid_prefix)
        return await self._list(request, "delegations", codecs.DELEGATION.decode, timeout, limit)

    async def revoke_delegation(
        self, cid: str, *, path: Sequence[bytes] = (), timeout: timedelta = TIMEOUT_DEFAULT
    ) -> None:
        """Revoke a delegation for good.

        Args:
            cid: Its CID, or the beginning of it.
            path: The envelopes of its chain, if the cluster does not store them.
            timeout: For all attempts.

        Raises:
            ClusterError: DELEGATION_NOT_FOUND, NOT_DELEGATED.
        """
        cid = await self.lookups.delegation_cid(cid, timeout)
        request = pb.RevokeDelegationRequest(request_id=new_request_id(), cid=cid, path=path)
        await self._unary(request, timeout)

    async def explain_access(
        self,
        method: str,
        request: bytes,
        *,
        did: Did | str = "",
        tokens: Sequence[bytes] = (),
        tokens_alone: bool = False,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> AccessExplanation:
        """Say whether a call would be allowed, by which delegations or for want of which.

        Args:
            method: Its full name.
            request: The serialised request.
            did: The caller, or its name; default: this client.
            tokens: Envelopes that the call would carry; default: those stored for the caller.
            tokens_alone: Judge by `tokens` without those stored for the caller.
            timeout: For all attempts.

        Raises:
            ClusterError: INVALID_ARGUMENT, NOT_DELEGATED.
        """
        if did:
            did = await self.lookups.did(did, timeout)
        asked = pb.ExplainAccessRequest(
            did=did, tokens=tokens, method=method, request=request, tokens_alone=tokens_alone
        )
        answer = await self._unary(asked, timeout)
        return codecs.ACCESS.decode(answer)

    async def list_audit_records(
        self,
        address: str,
        node_id: str,
        *,
        since: datetime | None = None,
        caller: str = "",
        method: str = "",
        outcome: str = "",
        limit: int = 100,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> list[AuditRecord]:
        """One node's records of calls that were denied or changed something, newest first.

        Args:
            address: The node's.
            node_id: Its PeerID.
            since: Only records from this time on.
            caller: Only calls of this DID, or of the node or client with this name.
            method: Only methods whose name ends with this.
            outcome: Only `allowed`, `failed`, `denied` or `lost`.
            limit: The most records to return.
            timeout: For each page.

        Raises:
            ClusterError: NOT_DELEGATED, UNREACHABLE, INVALID_ARGUMENT.
        """
        if caller:
            caller = await self.lookups.did(caller, timeout)
        channel = self._connection.channel((address, NodeId(node_id)))
        request = audit_pb2.ListAuditRecordsRequest(
            caller_did=caller, method=method, outcome=OUTCOME.number(outcome, "outcome")
        )
        if since is not None:
            request.since_time.FromDatetime(since)

        async def ask() -> audit_pb2.ListAuditRecordsResponse:
            return await AuditServiceStub(channel).ListAuditRecords(
                request, timeout=timeout.total_seconds(), metadata=self._connection.metadata
            )

        try:
            return await listed(ask, request, "records", codecs.AUDIT_RECORD.decode, limit)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
