"""Finds the whole id for a name or a beginning; a whole id costs no call."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar, cast

from ipfs_cluster_node.core import names
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.ids import (
    Did,
    NodeId,
    did_from_node_id,
    node_id_from_did,
    parse_did,
    parse_node_id,
)
from ipfs_cluster_node.core.names import IdKind, Named, chosen
from ipfs_cluster_node.core.views import (
    ListedCertificate,
    ListedContent,
    ListedDelegation,
    ListedJoinToken,
    ListedNode,
    ListedTask,
)

Listed = TypeVar("Listed")

ASKED_MAX: Final = names.CANDIDATES_MAX + 1
"""Most rows of one lookup: one more than a refusal names."""
LOOKUP_TIMEOUT: Final = timedelta(seconds=30)
"""For each call of a lookup that says no other."""
LOOKUPS_MAX: Final = 100
"""Most beginnings in one list of ids: each is a call."""


class Lists(Protocol):
    """The lists of a client."""

    async def list_tasks(
        self, *, task_id_prefix: str, limit: int, timeout: timedelta
    ) -> list[ListedTask]:
        """Tasks."""

    async def list_content(
        self, *, cid_prefix: str, limit: int, timeout: timedelta
    ) -> list[ListedContent]:
        """Files."""

    async def list_delegations(
        self, *, cid_prefix: str, limit: int | None, timeout: timedelta
    ) -> list[ListedDelegation]:
        """Stored delegations."""

    async def list_join_tokens(self, *, timeout: timedelta) -> list[ListedJoinToken]:
        """Join tokens."""

    async def list_certificates(
        self,
        *,
        did: str = "",
        serial_prefix: str = "",
        limit: int | None = None,
        timeout: timedelta,
    ) -> list[ListedCertificate]:
        """Certificates."""

    async def list_nodes(self, *, timeout: timedelta) -> list[ListedNode]:
        """Nodes."""


class Lookups:
    """What a person calls something by, as the id that the cluster takes.

    Text that can be neither a name nor a beginning is returned as it is: the cluster says what is
    wrong with it.
    """

    def __init__(self, client: Lists) -> None:
        """Look up with the rights of a client."""
        self._client = client

    async def task_id(self, text: str, timeout: timedelta = LOOKUP_TIMEOUT) -> str:
        """A task, by the beginning of its id.

        Raises:
            ClusterError: TASK_NOT_FOUND, NOT_DELEGATED, INVALID_ARGUMENT if there are several.
        """

        async def ask(prefix: str) -> list[str]:
            found = await self._client.list_tasks(
                task_id_prefix=prefix, limit=ASKED_MAX, timeout=timeout
            )
            return [task.task_id for task in found]

        return await _whole(names.TASK, text, ask)

    async def task_ids(
        self, texts: Sequence[str], timeout: timedelta = LOOKUP_TIMEOUT
    ) -> list[str]:
        """Several tasks; see `task_id`."""
        if sum(bool(names.TASK.prefixes(text)) for text in texts) > LOOKUPS_MAX:
            raise invalid_field(
                "task_ids", f"at most {LOOKUPS_MAX} beginnings of ids; give whole ids"
            )
        return [await self.task_id(text, timeout) for text in texts]

    async def cid(self, text: str, timeout: timedelta = LOOKUP_TIMEOUT) -> str:
        """A file, by the beginning of its CID.

        Raises:
            ClusterError: CONTENT_NOT_FOUND, NOT_DELEGATED, INVALID_ARGUMENT if there are several.
        """

        async def ask(prefix: str) -> list[str]:
            found = await self._client.list_content(
                cid_prefix=prefix, limit=ASKED_MAX, timeout=timeout
            )
            return [content.cid for content in found]

        return await _whole(names.CONTENT, text, ask)

    async def delegation_cid(self, text: str, timeout: timedelta = LOOKUP_TIMEOUT) -> str:
        """A stored delegation, by the beginning of its CID.

        Raises:
            ClusterError: DELEGATION_NOT_FOUND, INVALID_ARGUMENT if there are several.
        """

        async def ask(prefix: str) -> list[str]:
            found = await self._client.list_delegations(
                cid_prefix=prefix, limit=ASKED_MAX, timeout=timeout
            )
            return [delegation.cid for delegation in found]

        return await _whole(names.DELEGATION, text, ask)

    async def token_id(self, text: str, timeout: timedelta = LOOKUP_TIMEOUT) -> str:
        """A join token, by the beginning of its id.

        Raises:
            ClusterError: TOKEN_INVALID, NOT_DELEGATED, INVALID_ARGUMENT if there are several.
        """

        async def ask(_prefix: str) -> list[str]:
            found = await self._client.list_join_tokens(timeout=timeout)
            return [token.token_id for token in found]

        return await _whole(names.JOIN_TOKEN, text, ask)

    async def serial(self, text: str, timeout: timedelta = LOOKUP_TIMEOUT) -> str:
        """A certificate, by the beginning of its serial number.

        Raises:
            ClusterError: CERTIFICATE_NOT_FOUND, NOT_DELEGATED, INVALID_ARGUMENT if there are
                several.
        """

        async def ask(prefix: str) -> list[str]:
            found = await self._client.list_certificates(
                serial_prefix=prefix, limit=ASKED_MAX, timeout=timeout
            )
            return [certificate.serial for certificate in found]

        return await _whole(names.CERTIFICATE, text, ask)

    async def node_id(self, text: str, timeout: timedelta = LOOKUP_TIMEOUT) -> NodeId:
        """A node, by its name, its DID, or the beginning of its id; not a client.

        Raises:
            ClusterError: MEMBER_NOT_FOUND, NOT_DELEGATED, INVALID_ARGUMENT if there are several.
        """
        whole = whole_node_id(text)
        if whole is not None:
            return whole
        return NodeId(chosen(names.NODE, text, await self._nodes(text, timeout)).id)

    async def member(
        self, text: str, timeout: timedelta = LOOKUP_TIMEOUT, *, named: bool = False
    ) -> Named:
        """A node or client, by its name, its DID, or the beginning of its node id.

        Clients are known by their certificates. With `named` a whole id is looked up too, and
        stays without a name if that fails.

        Raises:
            ClusterError: MEMBER_NOT_FOUND, NOT_DELEGATED, INVALID_ARGUMENT if there are several.
        """
        whole = whole_node_id(text)
        if whole is not None and not named:
            return Named(whole)
        try:
            asked = text if whole is None else whole
            nodes = await self._nodes(text, timeout)
            try:
                clients = await self._certified(text, timeout, "" if whole is None else whole)
            except ClusterError as denied:
                if denied.reason is not Reason.NOT_DELEGATED:
                    raise
                # Of a node what is asked for is judged then, by the command that it needs.
                with suppress(ClusterError):
                    return chosen(names.NODE, asked, nodes)
                raise
            return chosen(names.NODE, asked, [*nodes, *clients])
        except ClusterError as error:
            if whole is None or error.reason not in (Reason.NOT_DELEGATED, Reason.MEMBER_NOT_FOUND):
                raise
            return Named(whole)

    async def did(self, text: str, timeout: timedelta = LOOKUP_TIMEOUT) -> Did:
        """The DID of a node or client; see `member`."""
        return did_from_node_id(NodeId((await self.member(text, timeout)).id))

    async def _nodes(self, text: str, timeout: timedelta) -> list[Named]:
        nodes = await _listed(names.NODE, text, self._client.list_nodes(timeout=timeout))
        return [Named(node.node_id, node.name) for node in nodes]

    async def _certified(self, text: str, timeout: timedelta, node_id: str) -> list[Named]:
        did = did_from_node_id(NodeId(node_id)) if node_id else ""
        found = await _listed(
            names.CERTIFICATE, text, self._client.list_certificates(did=did, timeout=timeout)
        )
        # Those of a removed member are revoked, and its name may have been given again.
        return [Named(node_id_from_did(Did(c.did)), c.name) for c in found if not c.revoked]


def whole_node_id(text: Any) -> NodeId | None:
    """The node id that `text` spells in whole, as such or as a DID; None if it is anything else.

    Raises:
        ClusterError: INVALID_ARGUMENT for a DID that is not a member's, or what is no text.
    """
    if not isinstance(text, str) or not text:
        raise invalid_field("node_id", "a node's name, its id or the beginning of it, or its DID")
    try:
        if text.startswith("did:"):
            return node_id_from_did(parse_did(text))
    except ValueError as error:
        raise invalid_field("did", str(error)) from error
    try:
        return parse_node_id(text)
    except ValueError:
        return None


async def _whole(kind: IdKind, text: Any, ask: Callable[[str], Awaitable[list[str]]]) -> str:
    """The whole id for a beginning; `ask` lists the ids that begin with a prefix, or more."""
    if not isinstance(text, str):
        return cast("str", text)
    prefixes = kind.prefixes(text)
    if not prefixes:
        if needed := kind.chars_needed(text):
            raise ClusterError(
                Reason.INVALID_ARGUMENT,
                f"{text!r} is too short for the beginning of a {kind.what}'s id: give at least "
                f"{needed} characters, as `{kind.listed_by}` shows",
            )
        return text
    found = [each for prefix in prefixes for each in await _listed(kind, text, ask(prefix))]
    return chosen(kind, text, map(Named, found)).id


async def _listed(kind: IdKind, text: str, call: Awaitable[list[Listed]]) -> list[Listed]:
    """What a list answers; that it is denied is explained."""
    try:
        return await call
    except ClusterError as error:
        if error.reason is not Reason.NOT_DELEGATED:
            raise
        raise ClusterError(
            error.reason,
            f"{text!r:.80} is looked up with `{kind.listed_by}`, which you may not do: give the "
            f"whole id ({error.message})",
            metadata=error.metadata,
        ) from error
