"""MembershipService."""

from collections.abc import AsyncIterator
from typing import Any

from ipfs_cluster_node.access.context import current_caller, current_permissions
from ipfs_cluster_node.cluster.backups import Backups
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.members import Members
from ipfs_cluster_node.cluster.pages import page_of_items
from ipfs_cluster_node.codec.enums import SETTING_KIND
from ipfs_cluster_node.codec.members import (
    did_of,
    endpoints_of,
    grant_namespace_of,
    grant_of,
    join_token_to_proto,
    joiner_to_proto,
    master_to_proto,
    node_id_of,
    node_to_proto,
    role_of,
    ttl_of,
)
from ipfs_cluster_node.codec.pages import PAGE_DIGITS_MAX, bad_page_token, page_of
from ipfs_cluster_node.codec.proposals import ConfigPlan, ConfigProposal
from ipfs_cluster_node.codec.tasks import duration_of_ms, name_of, request_id_of, timestamp_of_ms
from ipfs_cluster_node.codec.views import task_counts_to_proto
from ipfs_cluster_node.core.authorization import (
    join_token_args,
    member_args,
    setting_args,
)
from ipfs_cluster_node.core.commands import DecideJoiner
from ipfs_cluster_node.core.config_history import ConfigVersion
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.model import Liveness
from ipfs_cluster_node.core.settings import SETTINGS, ClusterConfig, SettingKind
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.v1 import membership_pb2 as pb
from ipfs_cluster_node.v1 import membership_pb2_grpc


class MembershipServicer(membership_pb2_grpc.MembershipServiceServicer):
    """The members of the cluster."""

    def __init__(
        self,
        members: Members,
        consensus: Consensus,
        backups: Backups,
    ) -> None:
        self._members = members
        self._consensus = consensus
        self._backups = backups

    async def GetClusterStatus(
        self, request: pb.GetClusterStatusRequest, context: Any
    ) -> pb.GetClusterStatusResponse:
        """Describe the cluster."""
        state = self._consensus.state()
        nodes = list(state.members.nodes())
        leader_id = self._consensus.leader
        leader = state.members.node(leader_id) if leader_id else None
        stored = [each for each in map(self._members.stored_by, nodes) if each is not None]
        leads = self._consensus.is_leader
        return pb.GetClusterStatusResponse(
            cluster_id=state.cluster_id,
            cluster_name=state.cluster_name,
            node_id=self._consensus.node_id,
            leader_node_id=leader_id or "",
            leader_endpoints=leader.endpoints if leader else (),
            term=self._consensus.term,
            applied_index=self._consensus.applied_index,
            alive_node_count=sum(node.liveness is Liveness.ALIVE for node in nodes),
            node_count=len(nodes),
            task_counts=task_counts_to_proto(state.tasks.counts),
            content_count=len(state.contents),
            certificate_epoch=state.certificates.authority.epoch,
            content_bytes=sum(size for size, _ in stored) if leads else None,
            content_node_count=len(stored) if leads else 0,
            content_age=duration_of_ms(max(age for _, age in stored)) if leads and stored else None,
            masters=map(master_to_proto, self._members.masters()),
        )

    async def ListNodes(self, request: pb.ListNodesRequest, context: Any) -> pb.ListNodesResponse:
        """List the nodes."""
        page = page_of(request, "nodes")
        state = self._consensus.read_state()
        permissions = current_permissions()
        nodes = sorted(
            (
                node
                for node in state.members.nodes()
                if node.node_id > page.after and permissions.allows(member_args(node))
            ),
            key=lambda node: node.node_id,
        )
        voters, leader = self._consensus.voters, self._consensus.leader
        shown, following = await page_of_items(
            (
                (
                    node_to_proto(
                        n,
                        voters,
                        leader,
                        running_count=state.tasks.running_count(n.node_id),
                        content=self._members.stored_by(n),
                    ),
                    n.node_id,
                )
                for n in nodes
            ),
            page,
        )
        return pb.ListNodesResponse(nodes=shown, next_page_token=following)

    async def CreateJoinToken(
        self, request: pb.CreateJoinTokenRequest, context: Any
    ) -> pb.CreateJoinTokenResponse:
        """Make a join token."""
        role = role_of(request.role)
        grant = grant_of(request.grant, role)
        minted = await self._members.create_join_token(
            role=role,
            ttl=ttl_of(request.ttl) if request.HasField("ttl") else None,
            uses_max=request.uses_max if request.HasField("uses_max") else 1,
            addresses=endpoints_of(request.addresses, "addresses"),
            grant=grant,
            namespace=grant_namespace_of(request.namespace, grant),
            needs_approval=request.needs_approval,
            caller=current_caller().did,
            request_id=request_id_of(request.request_id),
        )
        return pb.CreateJoinTokenResponse(
            token=minted.text,
            expire_time=timestamp_of_ms(minted.expires_at_ms),
            enrolment_endpoints=self._consensus.state().members.enrolment_endpoints(),
        )

    async def CreateBackup(
        self, request: pb.CreateBackupRequest, context: Any
    ) -> AsyncIterator[pb.CreateBackupResponse]:
        """Stream the whole state."""
        async for data in self._backups.create_backup():
            yield pb.CreateBackupResponse(data=data)

    async def ListJoinTokens(
        self, request: pb.ListJoinTokensRequest, context: Any
    ) -> pb.ListJoinTokensResponse:
        """List the join tokens."""
        page = page_of(request, "join_tokens")
        permissions = current_permissions()
        shown, following = await page_of_items(
            (
                (join_token_to_proto(token), token.token_id)
                if token.token_id > page.after and permissions.allows(join_token_args(token))
                else None
                for token in self._members.join_tokens()
            ),
            page,
        )
        return pb.ListJoinTokensResponse(tokens=shown, next_page_token=following)

    async def RevokeJoinToken(
        self, request: pb.RevokeJoinTokenRequest, context: Any
    ) -> pb.RevokeJoinTokenResponse:
        """Revoke a join token."""
        await self._members.revoke_join_token(
            name_of(request.token_id, "token_id"),
            caller=current_caller().did,
            request_id=request_id_of(request.request_id),
        )
        return pb.RevokeJoinTokenResponse()

    async def ListJoiners(
        self, request: pb.ListJoinersRequest, context: Any
    ) -> pb.ListJoinersResponse:
        """List joiners that wait for approval."""
        page = page_of(request, "joiners")
        permissions = current_permissions()
        after = _joiner_key(page.after) if page.after else (0, "")
        shown, following = await page_of_items(
            (
                (joiner_to_proto(token, joiner), f"{joiner.asked_at_ms} {joiner.did}")
                if (joiner.asked_at_ms, joiner.did) > after
                and permissions.allows(join_token_args(token, joiner.did))
                else None
                for token, joiner in self._members.joiners()
            ),
            page,
        )
        return pb.ListJoinersResponse(joiners=shown, next_page_token=following)

    async def DecideJoiner(
        self, request: pb.DecideJoinerRequest, context: Any
    ) -> pb.DecideJoinerResponse:
        """Approve or reject a joiner."""
        await self._members.decide_joiner(
            DecideJoiner(
                token_id=name_of(request.token_id, "token_id"),
                did=did_of(request.did),
                approved=request.approved,
            ),
            caller=current_caller().did,
            request_id=request_id_of(request.request_id),
        )
        return pb.DecideJoinerResponse()

    async def RemoveNode(
        self, request: pb.RemoveNodeRequest, context: Any
    ) -> pb.RemoveNodeResponse:
        """Remove a node."""
        await self._members.remove_node(
            node_id_of(request.node_id),
            caller=current_caller().did,
            request_id=request_id_of(request.request_id),
            lose_files=request.lose_files,
        )
        return pb.RemoveNodeResponse()

    async def TransferLeadership(
        self, request: pb.TransferLeadershipRequest, context: Any
    ) -> pb.TransferLeadershipResponse:
        """Transfer leadership to another master."""
        leader = await self._members.transfer_leadership(
            node_id_of(request.node_id) if request.node_id else None,
            source=node_id_of(request.from_node_id, "from_node_id")
            if request.from_node_id
            else None,
        )
        return pb.TransferLeadershipResponse(leader_node_id=leader)

    async def GetConfig(self, request: pb.GetConfigRequest, context: Any) -> pb.GetConfigResponse:
        """Read the settings."""
        page = page_of(request, "config")
        settings = self._consensus.read_state().settings
        keys = settings.keys()
        permissions = current_permissions()
        shown, following = await page_of_items(
            (
                (_entry(settings, key), key)
                if key > page.after
                and request.key in ("", key)
                and permissions.allows(setting_args(key))
                else None
                for key in keys
            ),
            page,
        )
        return pb.GetConfigResponse(entries=shown, next_page_token=following)

    async def ProposeConfig(  # type: ignore[override]  # Decoded: see `requirements.DECODERS`.
        self, request: ConfigProposal, context: Any
    ) -> pb.ProposeConfigResponse:
        """Change settings."""
        await self._members.propose_config(
            request.values,
            if_values=request.if_values,
            caller=current_caller().did,
            request_id=request_id_of(request.request_id),
        )
        return pb.ProposeConfigResponse()

    async def PlanConfig(  # type: ignore[override]  # Decoded: see `requirements.DECODERS`.
        self, request: ConfigPlan, context: Any
    ) -> pb.PlanConfigResponse:
        """Say what a proposal would change."""
        if request.revert_to is None:
            planned = self._members.plan_config(request.values, request.if_values)
        else:
            planned = self._members.plan_revert(request.revert_to)
            permissions = current_permissions()
            for change in planned:
                if not permissions.allows(setting_args(change.key)):
                    raise ClusterError(
                        Reason.NOT_DELEGATED,
                        f"version {request.revert_to} differs from today in settings that you may "
                        "not read",
                    )
        changes = [pb.PlannedChange(**change._asdict()) for change in planned]
        return pb.PlanConfigResponse(changes=changes)

    async def ListConfigVersions(
        self, request: pb.ListConfigVersionsRequest, context: Any
    ) -> pb.ListConfigVersionsResponse:
        """List the versions of the settings."""
        page = page_of(request, "config_versions")
        state = self._consensus.read_state()
        after = page.after_number()
        shown, following = await page_of_items(
            (
                (_version(version, state, request.key), version.number)
                for version in state.config_history.newest_first(after)
                if version.number > request.after_version and request.version in (0, version.number)
            ),
            page,
        )
        return pb.ListConfigVersionsResponse(versions=shown, next_page_token=following)


def _version(version: ConfigVersion, state: ClusterState, only: str) -> pb.ConfigVersion | None:
    """A version as the caller may see it; None if it may read none of its keys."""
    allows = current_permissions().allows
    before, after = version.before, version.after
    keys = sorted(after) if not only else [only] if only in after else []
    keys = [key for key in keys if allows(setting_args(key))]
    if not keys:
        return None
    proposer = state.members.get(Did(version.by))
    return pb.ConfigVersion(
        version=version.number,
        propose_time=timestamp_of_ms(version.at_ms),
        proposer_did=version.by,
        proposer_name=proposer.name if proposer else "",
        changes=[
            pb.ConfigChange(key=key, old_value=before[key], new_value=after[key]) for key in keys
        ],
    )


def _joiner_key(key: str) -> tuple[int, str]:
    asked_at_ms, _, did = key.partition(" ")
    if not (asked_at_ms.isascii() and asked_at_ms.isdigit()) or len(asked_at_ms) > PAGE_DIGITS_MAX:
        raise bad_page_token()
    return int(asked_at_ms), did


def _entry(settings: ClusterConfig, key: str) -> pb.ConfigEntry:
    setting = SETTINGS.get(key)
    return pb.ConfigEntry(
        key=key,
        value=settings.text(key),
        description="yours"
        if setting is None
        else f"{setting.description}; {setting.minimum} to {setting.maximum}",
        kind=SETTING_KIND.numbers[setting.kind if setting else SettingKind.TEXT],
        default_value=setting.default if setting else "",
        minimum_value=setting.minimum if setting else "",
        maximum_value=setting.maximum if setting else "",
    )
