"""Narrows what the cluster delegated to a client: what is left is delegated, then the rest ends."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from ipfs_cluster_node.cli.delegating import delegated
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.authorization import (
    GRANT_DEFAULT,
    WITHIN_NAMESPACE,
    check_grant_namespace,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, did_from_node_id
from ipfs_cluster_node.core.ucan.commands import Command, covers
from ipfs_cluster_node.core.views import ListedDelegation


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A command that was narrowed."""

    command: str
    cid: str
    """Of the delegation that it has from now on."""
    revoked_cid: str


@dataclass(slots=True)
class Narrowing:
    """Narrows commands of one client."""

    profile: str | None
    member: str
    namespace: str
    commands: Sequence[str]
    where: Sequence[str]
    ttl: timedelta
    did: str = ""
    found: list[ListedDelegation] = field(default_factory=list)

    async def find(self, client: Client) -> tuple[str, list[ListedDelegation]]:
        """The client, and the delegations to be narrowed.

        Raises:
            ClusterError: INVALID_ARGUMENT, if it has none such, or nothing limits them.
        """
        if not self.namespace and not self.where:
            raise ClusterError(Reason.INVALID_ARGUMENT, "give --namespace or --where, or both")
        if self.namespace:
            _check_namespace(self.namespace)
        member = await client.lookups.member(self.member, named=True)
        self.did = did_from_node_id(NodeId(member.id))
        caller = await client.get_caller()
        stored = await client.list_delegations(audience=self.did)
        own = [each for each in stored if each.audience == self.did and not each.revoker_dids]
        brought = [each for each in own if each.issuer == caller.cluster_did]
        asked = self.commands or _limited_by_namespace()
        self.found = [d for d in brought if any(_is_of(command, d.command) for command in asked)]
        self._check(member.name or self.did, brought)
        latest = {each.command: each for each in sorted(self.found, key=_expiry)}
        return str(member), list(latest.values())

    async def carry_out(self, client: Client) -> list[Narrowed]:
        """Delegate what is left of each, then revoke it.

        In this order nothing is lost meanwhile, and if it ends early, a repeat goes on.

        Raises:
            ClusterError: What `token delegate` and `token revoke` raise.
        """
        where = [*self.where, *([f"namespace={self.namespace}"] if self.namespace else [])]
        done: list[Narrowed] = []
        left: dict[tuple[str, str], str] = {}
        for each in self.found:
            key = each.command, each.policy_json
            if key not in left:
                made = await delegated(
                    client,
                    self.profile,
                    audience=self.did,
                    command=each.command,
                    where=where,
                    most=(),
                    policy=None if each.policy_json in ("", "[]") else each.policy_json,
                    ttl=self.ttl,
                    keep=True,
                )
                left[key] = made.cid
            await client.revoke_delegation(each.cid)
            done.append(Narrowed(each.command, left[key], each.cid))
        return done

    def _check(self, name: str, brought: Sequence[ListedDelegation]) -> None:
        for command in self.commands:
            if any(_is_of(command, each.command) for each in brought):
                continue
            above = [d.command for d in brought if covers(Command(d.command), Command(command))]
            instead = (
                f"it has {above[0]} as one: give that, or revoke it and delegate what is to be left"
                if above
                else f"see `token list --audience {name}`"
            )
            raise ClusterError(
                Reason.INVALID_ARGUMENT, f"{name} has no {command} of its grant; {instead}"
            )
        if not self.found:
            raise ClusterError(
                Reason.INVALID_ARGUMENT,
                f"{name} has nothing of its grant that could be narrowed so; see `token list "
                f"--audience {name}`",
            )


def _limited_by_namespace() -> list[str]:
    return [str(command) for commands in WITHIN_NAMESPACE.values() for command in commands]


def _check_namespace(namespace: str) -> None:
    try:
        check_grant_namespace(GRANT_DEFAULT, namespace)
    except ValueError as error:
        raise ClusterError(Reason.INVALID_ARGUMENT, f"--namespace: {error}") from error


def _is_of(asked: str, command: str) -> bool:
    return covers(Command(asked), Command(command))


def _expiry(listed: ListedDelegation) -> int:
    return listed.expires_at_ms
