"""Client operations on nodes, joiners."""

from collections.abc import Sequence
from datetime import timedelta

from ipfs_cluster_node.client.calls import TIMEOUT_DEFAULT, Calls
from ipfs_cluster_node.client.connection import new_request_id
from ipfs_cluster_node.codec import views as codecs
from ipfs_cluster_node.codec.enums import GRANT, ROLE
from ipfs_cluster_node.codec.tasks import duration_of_ms
from ipfs_cluster_node.core.views import (
    ClusterStatus,
    ListedJoiner,
    ListedJoinToken,
    ListedNode,
    NewJoinToken,
)
from ipfs_cluster_node.v1 import membership_pb2 as pb


class MembershipCalls(Calls):
    """The operations of MembershipService."""

    async def get_cluster_status(self, *, timeout: timedelta = TIMEOUT_DEFAULT) -> ClusterStatus:
        """Describe the cluster."""
        answer = await self._unary(pb.GetClusterStatusRequest(), timeout)
        return codecs.CLUSTER_STATUS.decode(answer)

    async def list_nodes(self, *, timeout: timedelta = TIMEOUT_DEFAULT) -> list[ListedNode]:
        """List the nodes, ordered by id."""
        return await self._list(pb.ListNodesRequest(), "nodes", codecs.NODE.decode, timeout)

    async def remove_node(
        self, node_id: str, *, lose_files: bool = False, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> None:
        """Remove a node or client for good; with `lose_files` even if only it holds some files.

        Named by its name, its DID, or its node id or the beginning of it.
        """
        node_id = (await self.lookups.member(node_id, timeout)).id
        request = pb.RemoveNodeRequest(
            request_id=new_request_id(), node_id=node_id, lose_files=lose_files
        )
        await self._unary(request, timeout)

    async def transfer_leadership(
        self, node_id: str = "", *, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> str:
        """Make another master the leader; returns the PeerID of the new leader.

        Args:
            node_id: That master, by its name, id or DID; empty for the one with the longest log.
            timeout: For all attempts together.
        """
        # The target is fixed first, so that a retry does not transfer leadership again.
        if node_id:
            node_id = await self.lookups.node_id(node_id, timeout)
        nodes = [] if node_id else await self.list_nodes(timeout=timeout)
        request = pb.TransferLeadershipRequest(
            node_id=node_id, from_node_id=next((n.node_id for n in nodes if n.leader), "")
        )
        response = await self._unary(request, timeout)
        return str(response.leader_node_id)

    async def create_join_token(
        self,
        role: str,
        *,
        ttl: timedelta = timedelta(hours=1),
        uses_max: int = 1,
        addresses: Sequence[str] = (),
        grant: str = "",
        namespace: str = "",
        needs_approval: bool = False,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> NewJoinToken:
        """Make a join token; its secret is returned only now.

        `grant` is a client's preset; `user` and `reader` may be limited to a `namespace`, or by
        `team-a/*` to all below one.
        With `needs_approval` each joiner waits for `decide_joiner`.
        """
        request = pb.CreateJoinTokenRequest(
            request_id=new_request_id(),
            role=ROLE.number(role, "role"),
            ttl=duration_of_ms(ttl // timedelta(milliseconds=1)),
            uses_max=uses_max,
            addresses=addresses,
            grant=GRANT.number(grant, "grant"),
            namespace=namespace,
            needs_approval=needs_approval,
        )
        answer = await self._unary(request, timeout)
        return codecs.NEW_JOIN_TOKEN.decode(answer)

    async def list_join_tokens(
        self, *, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> list[ListedJoinToken]:
        """List the join tokens, without their secrets."""
        request = pb.ListJoinTokensRequest()
        return await self._list(request, "tokens", codecs.JOIN_TOKEN.decode, timeout)

    async def revoke_join_token(
        self, token_id: str, *, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> None:
        """Revoke a join token, by its id or the beginning of it.

        Joiners waiting with it are rejected too.
        """
        token_id = await self.lookups.token_id(token_id, timeout)
        request = pb.RevokeJoinTokenRequest(request_id=new_request_id(), token_id=token_id)
        await self._unary(request, timeout)

    async def list_joiners(self, *, timeout: timedelta = TIMEOUT_DEFAULT) -> list[ListedJoiner]:
        """List the joiners waiting for approval."""
        return await self._list(pb.ListJoinersRequest(), "joiners", codecs.JOINER.decode, timeout)

    async def decide_joiner(
        self,
        joiner: ListedJoiner,
        *,
        approved: bool,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> None:
        """Approve one of `list_joiners`, in its token's role, or reject it."""
        request = pb.DecideJoinerRequest(
            request_id=new_request_id(),
            did=joiner.did,
            token_id=joiner.token_id,
            approved=approved,
        )
        await self._unary(request, timeout)
