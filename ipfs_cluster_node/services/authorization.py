"""AuthorizationService."""

from typing import Any

from ipfs_cluster_node.access.context import current_permissions
from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from ipfs_cluster_node.cluster.delegations import Delegations
from ipfs_cluster_node.codec.delegations import token_cid_of
from ipfs_cluster_node.codec.members import did_of
from ipfs_cluster_node.codec.pages import page_of
from ipfs_cluster_node.codec.tasks import prefix_of, request_id_of
from ipfs_cluster_node.core.errors import invalid_field
from ipfs_cluster_node.services.requests import read_request, request_type_of
from ipfs_cluster_node.v1 import authorization_pb2 as pb
from ipfs_cluster_node.v1 import authorization_pb2_grpc


class AuthorizationServicer(authorization_pb2_grpc.AuthorizationServiceServicer):
    """Delegations, and what they allow."""

    def __init__(self, delegations: Delegations) -> None:
        self._delegations = delegations

    async def GetCaller(self, request: pb.GetCallerRequest, context: Any) -> pb.GetCallerResponse:
        """Return the caller's identity."""
        return await self._delegations.get_caller(
            current_permissions().caller, page_of(request, "own_delegations")
        )

    async def PutDelegation(
        self, request: pb.PutDelegationRequest, context: Any
    ) -> pb.PutDelegationResponse:
        """Store delegations."""
        cids = await self._delegations.put_delegation(
            list(request.tokens),
            caller=current_permissions().caller,
            request_id=request_id_of(request.request_id),
        )
        return pb.PutDelegationResponse(cids=cids)

    async def ListDelegations(
        self, request: pb.ListDelegationsRequest, context: Any
    ) -> pb.ListDelegationsResponse:
        """List stored delegations."""
        page = page_of(request, "delegations")
        found, following = await self._delegations.list_delegations(
            current_permissions().caller,
            audience=did_of(request.audience, "audience") if request.audience else None,
            cid_prefix=prefix_of(request.cid_prefix, "cid_prefix"),
            page=page,
        )
        return pb.ListDelegationsResponse(delegations=found, next_page_token=following)

    async def RevokeDelegation(
        self, request: pb.RevokeDelegationRequest, context: Any
    ) -> pb.RevokeDelegationResponse:
        """Revoke a delegation."""
        await self._delegations.revoke_delegation(
            token_cid_of(request.cid, "cid"),
            path=list(request.path),
            caller=current_permissions().caller,
            request_id=request_id_of(request.request_id),
        )
        return pb.RevokeDelegationResponse()

    async def ExplainAccess(
        self, request: pb.ExplainAccessRequest, context: Any
    ) -> pb.ExplainAccessResponse:
        """Explain whether a call would be allowed."""
        caller = current_permissions().caller
        message = request_type_of(request.method) if request.method in RULES_BY_METHOD else None
        if message is None:
            raise invalid_field("method", "such as /ipfs_cluster_node.v1.HealthService/GetHealth")
        return await self._delegations.explain_access(
            caller,
            did=did_of(request.did) if request.did else caller.did,
            tokens=list(request.tokens),
            method=request.method,
            request=read_request(message, request.request, "request"),
            alone=request.tokens_alone,
        )
