"""Client operations on the cluster's settings."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import timedelta

from ipfs_cluster_node.client.calls import TIMEOUT_DEFAULT
from ipfs_cluster_node.client.connection import new_request_id
from ipfs_cluster_node.client.state import StateCalls
from ipfs_cluster_node.client.values import message
from ipfs_cluster_node.codec import views as codecs
from ipfs_cluster_node.core.state_events import Bookmark
from ipfs_cluster_node.core.views import ListedConfigVersion, ListedSetting, PlannedSetting
from ipfs_cluster_node.v1 import membership_pb2 as pb


class ConfigCalls(StateCalls):
    """The operations of MembershipService on settings."""

    async def get_config(
        self, key: str = "", *, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> list[ListedSetting]:
        """Read the cluster's settings, or one of them."""
        return await self._list(
            message(pb.GetConfigRequest, key=key), "entries", codecs.SETTING.decode, timeout
        )

    async def propose_config(
        self,
        values: Mapping[str, str],
        *,
        if_values: Mapping[str, str] | None = None,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> None:
        """Change cluster settings, or keys of your own that begin with `user.`: all, or none.

        Args:
            values: The new value of each key, 1 to 1,000 of them; an empty one removes a key of
                your own, and returns one of the cluster's to its default.
            if_values: The required current values of these keys, empty for one that is not set; if
                one differs nothing is changed, and the error is CONFIG_CHANGED.
            timeout: For all attempts to reach the leader together.
        """
        request = message(
            pb.ProposeConfigRequest,
            request_id=new_request_id(),
            values=values,
            if_values=if_values,
        )
        await self._unary(request, timeout)

    async def plan_config(
        self,
        values: Mapping[str, str],
        *,
        if_values: Mapping[str, str] | None = None,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> list[PlannedSetting]:
        """What `propose_config` of the same would do, by key; changes nothing.

        Raises what that would raise.
        """
        request = message(pb.PlanConfigRequest, values=values, if_values=if_values)
        answer = await self._unary(request, timeout)
        return [*map(codecs.PLANNED_SETTING.decode, answer.changes)]

    async def plan_revert(
        self, version: int, *, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> list[PlannedSetting]:
        """What `revert_config` would do: the keys that differ; changes nothing."""
        request = message(pb.PlanConfigRequest, revert_to=version)
        answer = await self._unary(request, timeout)
        return [*map(codecs.PLANNED_SETTING.decode, answer.changes)]

    async def revert_config(
        self, version: int, *, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> list[PlannedSetting]:
        """Bring back all settings as they were right after a version, 0 for before the first one.

        It is a proposal like any other, and becomes a version itself.

        Returns:
            What was changed; empty if the settings are as they were.

        Raises:
            ClusterError: VERSION_NOT_FOUND; INVALID_ARGUMENT if more than 1,000 settings differ;
                CONFIG_CHANGED if a setting changed meanwhile, and nothing was reverted: plan again.
        """
        planned = await self.plan_revert(version, timeout=timeout)
        if planned:
            await self.propose_config(
                {each.key: each.new_value for each in planned},
                if_values={each.key: each.value for each in planned},
                timeout=timeout,
            )
        return planned

    async def list_config_versions(
        self,
        *,
        key: str = "",
        version: int = 0,
        after_version: int = 0,
        limit: int | None = None,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> list[ListedConfigVersion]:
        """The kept versions of the settings, the newest first, of what you may read.

        Args:
            key: Only those that changed this key, and of them only this.
            version: Only this one.
            after_version: Only those after this one.
            limit: The newest so many; default: all, at most 1,000.
            timeout: For all attempts to reach the leader, of each page.
        """
        request = message(
            pb.ListConfigVersionsRequest, key=key, version=version, after_version=after_version
        )
        return await self._list(request, "versions", codecs.CONFIG_VERSION.decode, timeout, limit)

    async def watch_config(
        self, key: str = "", *, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> AsyncGenerator[ListedConfigVersion, None]:
        """Yield each version of the settings from now on, in order, once it is committed.

        Args:
            key: Only those that change this key, or one that begins with it.
            timeout: How long it is tried to reach a master that answers.

        Raises:
            ClusterError: As `watch_state` of the table `config`, and `list_config_versions`.
        """
        newest = await self.list_config_versions(limit=1, timeout=timeout)
        last = newest[0].version if newest else 0
        events = self.watch_state("config", key_prefix=key, timeout=timeout)
        changed = False
        async with aclosing(events):
            async for event in events:
                if not isinstance(event, Bookmark):
                    changed = True
                    continue
                if not changed:
                    continue
                changed = False
                found = await self.list_config_versions(after_version=last, timeout=timeout)
                for version in reversed(found):
                    last = version.version
                    if any(each.key.startswith(key) for each in version.changes):
                        yield version
