"""Stores, lists, revokes and explains delegations. The leader's side of changes to them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from ipfs_cluster_node.access.authorizer import Authorizer
from ipfs_cluster_node.access.context import Caller, CallerClass
from ipfs_cluster_node.access.requirements import RequestContext
from ipfs_cluster_node.access.rules import RULES_BY_METHOD, Rule
from ipfs_cluster_node.access.turns import current_turn, gathered
from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.pages import page_of_items
from ipfs_cluster_node.codec.delegations import (
    delegation_to_proto,
    stored_delegation,
    to_json,
    token_cid_of,
)
from ipfs_cluster_node.codec.enums import CALLER_CLASS
from ipfs_cluster_node.codec.errors import error_from_ucan
from ipfs_cluster_node.codec.members import did_of
from ipfs_cluster_node.codec.pages import Page
from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.core.authorization import (
    ANY,
    CONTENT_KEEP,
    CONTENT_READ,
    CONTENT_REMOVE,
    DELEGATION_LIST,
    DELEGATION_REVOKE,
    JOINER_DECIDE,
    MEMBER_REMOVE,
    TASK_CANCEL,
    TASK_READ,
    TOKEN_REVOKE,
    Args,
    ItemArgs,
    alternatives,
    delegation_args,
    distinct,
)
from ipfs_cluster_node.core.commands import PutDelegation, RevokeDelegation
from ipfs_cluster_node.core.delegations import StoredDelegation, StoredRevocation
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.ids import Did, NodeId
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.ucan.arrange import path_between
from ipfs_cluster_node.core.ucan.chain import Claim
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.explain import explain
from ipfs_cluster_node.core.ucan.profiles import PRODUCT
from ipfs_cluster_node.core.ucan.revocations import check_revoker
from ipfs_cluster_node.core.ucan.tokens import Delegation
from ipfs_cluster_node.v1 import authorization_pb2 as pb

TOKENS_MAX: Final = 32
EXPLAINED_MAX: Final = 64
"""Most sets of arguments of one call that are explained."""
ARGS_OF_STATE: Final = frozenset(
    {
        CONTENT_KEEP,
        CONTENT_READ,
        CONTENT_REMOVE,
        DELEGATION_REVOKE,
        JOINER_DECIDE,
        MEMBER_REMOVE,
        TASK_CANCEL,
        TASK_READ,
        TOKEN_REVOKE,
    }
)
"""Commands whose arguments reveal the state, not just the request."""


class Delegations:
    """Clients' operations on delegations."""

    def __init__(
        self, consensus: Consensus, authorizer: Authorizer, node_id: NodeId, *, clock: Clock
    ) -> None:
        """Answer from this node's log."""
        self._clock = clock
        self._consensus = consensus
        self._authorizer = authorizer
        self._node_id = node_id

    async def get_caller(self, caller: Caller, page: Page) -> pb.GetCallerResponse:
        """The caller and a page of its delegations."""
        state = self._authorizer.state()
        response = pb.GetCallerResponse(
            did=caller.did, caller_class=CALLER_CLASS.numbers[caller.kind]
        )
        if state is None:
            return response
        principal = state.members.get(caller.did)
        response.name = "" if principal is None else principal.name
        response.cluster_did = state.cluster_did
        delegations, response.next_page_token = await self._page(
            state, state.delegations.chain_of(caller.did), page
        )
        response.delegations.extend(delegations)
        return response

    async def put_delegation(
        self, tokens: Sequence[bytes], *, caller: Caller, request_id: str
    ) -> list[str]:
        """Store delegations; each must end a valid chain from the cluster."""
        state = self._consensus.leader_state()
        given = await self._verified(state, tokens, "tokens", least=1)
        validator = self._authorizer.validator(state)
        try:
            bag = self._authorizer.with_kept(given)
            context = self._authorizer.validation_context(state)
            turn = current_turn()
            for delegation in given:
                if delegation.subject not in (None, state.cluster_did):
                    detail = "the delegation is about another subject than this cluster"
                    raise UcanError(Refusal.INVALID_SUBJECT, detail, cid=delegation.cid)
                links = _links_to(delegation, bag)
                validator.access(delegation.audience, delegation.command, links, context)
                if turn.over:
                    await turn.next()
        except UcanError as error:
            raise error_from_ucan(error, now_s=self._clock.wall_ms() // 1000) from None
        kept = tuple(
            stored_delegation(
                delegation,
                token,
                at_ms=self._clock.wall_ms(),
                put_by=caller.did if caller.kind is CallerClass.CLIENT else "",
            )
            for delegation, token in zip(given, tokens, strict=True)
        )
        await self._consensus.propose(
            PutDelegation(delegations=kept), caller=caller.did, request_id=request_id
        )
        return [str(delegation.cid) for delegation in given]

    async def list_delegations(
        self, caller: Caller, *, audience: Did | None, cid_prefix: str, page: Page
    ) -> tuple[list[pb.Delegation], str]:
        """A page of what the caller may see, by the hash in the CID; and the next one's token."""
        state = self._consensus.read_state()
        table = state.delegations
        seen = self._seen_by(caller.did)
        there = tuple(table.of_audience(audience)) if audience else table.delegations()
        return await self._page(
            state,
            (
                stored
                if seen(stored.issuer, stored.audience)
                and (not cid_prefix or str(stored.cid).startswith(cid_prefix))
                else None
                for stored in there
            ),
            page,
        )

    async def _page(
        self, state: ClusterState, rows: Iterable[StoredDelegation | None], page: Page
    ) -> tuple[list[pb.Delegation], str]:
        """The rows of a page by the hash in the CID, and the next page's token."""
        validator = self._authorizer.validator(state)
        after = token_cid_of(page.after, "page_token").digest if page.after else b""
        kept = await gathered(
            stored if stored is not None and stored.cid.digest > after else None for stored in rows
        )
        kept.sort(key=lambda stored: stored.cid.digest)
        return await page_of_items(
            (
                (
                    self._to_proto(state, validator.delegation(stored.token), stored.token),
                    stored.cid,
                )
                for stored in kept
            ),
            page,
        )

    async def revoke_delegation(
        self, cid: Cid, *, path: Sequence[bytes], caller: Caller, request_id: str
    ) -> None:
        """Revoke a delegation."""
        state = self._consensus.leader_state()
        found = await self._to_revoke(state, caller.did, cid, path)
        if found is None:
            return
        revoked, bag = found
        revoker = self._revoker(state, caller, revoked, bag)
        lifetime_s = PRODUCT.delegation_lifetime_s_max
        assert lifetime_s is not None
        end_max_s = self._clock.wall_ms() // 1000 + lifetime_s
        if revoked.expires_s is None or revoked.expires_s > end_max_s:
            raise ClusterError(
                Reason.DELEGATION_INVALID,
                "no node accepts a delegation that ends so late: there is nothing to revoke",
            )
        copies = tuple(
            StoredRevocation(copy.cid, revoker, copy.expires_s or 0)
            for copy in self._copies_of(state, revoked)
        )
        await self._consensus.propose(
            RevokeDelegation(
                revocation=StoredRevocation(cid, revoker, revoked.expires_s), copies=copies
            ),
            caller=caller.did,
            request_id=request_id,
        )

    async def _to_revoke(
        self, state: ClusterState, did: Did, cid: Cid, path: Sequence[bytes]
    ) -> tuple[Delegation, list[Delegation]] | None:
        """The delegation, and all that may be part of its chain; None if it is revoked already.

        Raises:
            ClusterError: INVALID_ARGUMENT, DELEGATION_INVALID or DELEGATION_NOT_FOUND.
        """
        given = {each.cid: each for each in await self._verified(state, path, "path")}
        stored = state.delegations.get(cid)
        if stored is not None:
            given.setdefault(cid, self._authorizer.validator(state).delegation(stored.token))
        if cid not in given:
            if {did, state.cluster_did} & state.delegations.revocations.get(cid, set()):
                return None  # Already revoked, and no longer stored.
            raise ClusterError(
                Reason.DELEGATION_NOT_FOUND,
                f"no delegation {cid} is kept; send the tokens of its chain too",
            )
        return given[cid], self._authorizer.with_kept(list(given.values()))

    async def _verified(
        self, state: ClusterState, tokens: Sequence[bytes], field: str, *, least: int = 0
    ) -> list[Delegation]:
        """Verify the tokens of a field; raises ClusterError."""
        if not least <= len(tokens) <= TOKENS_MAX:
            raise invalid_field(field, f"{'1 to' if least else 'at most'} {TOKENS_MAX}")
        try:
            return await gathered(map(self._authorizer.validator(state).delegation, tokens))
        except UcanError as error:
            raise error_from_ucan(error, now_s=self._clock.wall_ms() // 1000) from None

    def _copies_of(self, state: ClusterState, revoked: Delegation) -> list[Delegation]:
        """The cluster's delegations with the same effect: each certificate renewal adds one."""
        if revoked.issuer != state.cluster_did:
            return []
        validator = self._authorizer.validator(state)
        given = (
            validator.delegation(stored.token)
            for stored in state.delegations.of_audience(revoked.audience)
            if stored.issuer == state.cluster_did and stored.cid != revoked.cid
        )
        same = (revoked.command, revoked.policy)
        return [each for each in given if (each.command, each.policy) == same]

    async def explain_access(
        self,
        caller: Caller,
        *,
        did: Did,
        tokens: Sequence[bytes],
        method: str,
        request: Any,
        alone: bool = False,
    ) -> pb.ExplainAccessResponse:
        """Explain whether a call would be allowed; `alone` by no other delegations to `did`."""
        state = self._consensus.read_state()
        rule = RULES_BY_METHOD[method]
        if _class_decides(rule):
            return pb.ExplainAccessResponse(allowed=CallerClass.CLIENT in rule.callers)
        bag = await self._verified(state, tokens, "tokens")
        brought = {cid_of_token(token): token for token in tokens}
        if not self._may_ask_about(did, caller.did, rule, bag):
            raise ClusterError(
                Reason.NOT_DELEGATED,
                f"only {did}, a holder of a delegation to it, or of {DELEGATION_LIST}, may "
                "ask that",
            )
        if rule.command is None:
            return _explanation(await self._explain_own_decision(state, caller, did, request))
        if alone or (bag and not self._seen_by(caller.did)(ANY, did)):
            # A holder of tokens may not see what else their audience has: by these alone.
            kept = self._authorizer.with_kept(bag)
            bag = [each for each in kept if each.audience != did or each.cid in brought]
        else:
            bag = self._authorizer.completed(did, bag)
        value = rule.decode(request) if rule.decode else request
        context = RequestContext(did, self._node_id, state)
        requirements = list(rule.required(value, context)) if rule.required else []
        # A list is judged by its items, not as a call.
        turn = current_turn()
        each: list[tuple[Command, ItemArgs | None]] = []
        for requirement in requirements:
            for item in distinct(requirement.each):
                each.append((requirement.command, item))
                if len(each) > EXPLAINED_MAX:
                    raise invalid_field(
                        "request", f"requires more than {EXPLAINED_MAX} checks; ask for fewer"
                    )
                if turn.over:
                    await turn.next()
        if not requirements:
            each = [(rule.command, None)]
        explained = await gathered(
            self._explain(state, caller, did, command, item, bag, brought) for command, item in each
        )
        return _explanation(explained)

    async def _explain_own_decision(
        self, state: ClusterState, caller: Caller, did: Did, request: Any
    ) -> list[pb.AskExplanation]:
        """Explain a method that decides itself, which goes by what is stored for its caller."""
        stored = self._authorizer.kept([did])
        match request:
            case pb.PutDelegationRequest():
                given = await self._verified(state, request.tokens, "tokens", least=1)
                bag = self._authorizer.with_kept(given)
                tokens = {cid_of_token(token): token for token in request.tokens}
                return await gathered(
                    self._explain(
                        state, caller, d.audience, d.command, None, _links_to(d, bag), tokens
                    )
                    for d in given
                )
            case pb.RevokeDelegationRequest():
                cid = token_cid_of(request.cid, "cid")
                found = await self._to_revoke(state, did, cid, request.path)
                if found is None or self._issued_a_link(state, did, *found):
                    return []
                args = delegation_args(found[0].issuer, found[0].audience)
                return [self._explain(state, caller, did, DELEGATION_REVOKE, args, stored, {})]
            case pb.ExplainAccessRequest():
                about = did_of(request.did) if request.did else did
                given = await self._verified(state, request.tokens, "tokens")
                rule = RULES_BY_METHOD.get(request.method)
                if rule is None:
                    raise invalid_field("method", "there is no such method")
                if _class_decides(rule) or self._may_ask_about(about, did, rule, given):
                    return []
                args = delegation_args(ANY, about)
                return [self._explain(state, caller, did, DELEGATION_LIST, args, stored, {})]
        assert isinstance(request, pb.ListDelegationsRequest), "the only other that decides itself"
        return []  # It always answers, if only with the caller's own.

    def _explain(
        self,
        state: ClusterState,
        caller: Caller,
        did: Did,
        command: Command,
        item: ItemArgs | None,
        bag: Sequence[Delegation],
        brought: Mapping[Cid, bytes],
    ) -> pb.AskExplanation:
        """Explain one requirement; without `item` the call shows each item that may be read."""
        claim = Claim(issuer=did, subject=state.cluster_did, command=command, args={})
        context = self._authorizer.validation_context(state)
        ways = [
            (args, explain(replace(claim, args=args), bag, context, by_item=item is None))
            for args in alternatives({} if item is None else item)
        ]
        args, found = next((way for way in ways if way[1].error is None), ways[0])
        answer = pb.AskExplanation(command=command, allowed=found.error is None)
        # Otherwise a caller that may not read a task would learn its submitter here.
        told = answer.allowed if did == caller.did else self._may(caller, command, args)
        if told or command not in ARGS_OF_STATE:
            answer.args_json = to_json(args)
        failing = len(found.chain)
        if found.error is not None:
            answer.ucan_error, answer.detail = found.error.name.value, found.error.detail
            failing = -1 if found.error.link is None else found.error.link
        for link, delegation in enumerate(found.chain):
            stored = state.delegations.get(delegation.cid)
            token = brought.get(delegation.cid) or (stored.token if stored else b"")
            each = answer.chain.add(delegation=self._to_proto(state, delegation, token))
            if link <= failing:
                each.holds = link < failing
        return answer

    def _revoker(
        self,
        state: ClusterState,
        caller: Caller,
        revoked: Delegation,
        bag: Sequence[Delegation],
    ) -> Did:
        """The revoker: the caller, or the cluster if the caller may revoke on its behalf.

        Raises:
            ClusterError: The caller issued no link of its chain, and has no such permission.
        """
        if self._issued_a_link(state, caller.did, revoked, bag):
            return caller.did
        args = delegation_args(revoked.issuer, revoked.audience)
        try:
            self._authorizer.access(caller.did, DELEGATION_REVOKE).check(args)
        except UcanError as error:
            refused = error_from_ucan(error, command=DELEGATION_REVOKE)
            raise self._authorizer.denied(caller.did, refused) from None
        return state.cluster_did

    @staticmethod
    def _issued_a_link(
        state: ClusterState, did: Did, revoked: Delegation, bag: Sequence[Delegation]
    ) -> bool:
        """Whether a principal issued a link of a delegation's chain."""
        links = [d for d in bag if d.subject == state.cluster_did]
        path = [
            *path_between(links, state.cluster_did, did),
            *path_between(links, did, revoked.issuer),
            revoked,
        ]
        try:
            check_revoker(did, revoked.cid, path, authority=state.cluster_did)
        except UcanError:
            return False
        return True

    def _may(self, caller: Caller, command: Command, args: Args) -> bool:
        try:
            return self._authorizer.access(caller.did, command).allows(args)
        except UcanError:
            return False

    def _may_ask_about(self, did: Did, caller: Did, rule: Rule, held: Iterable[Delegation]) -> bool:
        """Whether a caller that holds these delegations may ask if `did` may call a method."""
        if self._seen_by(caller)(ANY, did):
            return True
        # A method that decides itself goes by all that `did` has, which a holder may not see.
        return not rule.decides_itself and any(each.audience == did for each in held)

    def _seen_by(self, caller: Did) -> Callable[[str, Did], bool]:
        """Whether a caller may see what an issuer gave an audience."""
        try:
            access = self._authorizer.access(caller, DELEGATION_LIST)
        except UcanError:
            return lambda issuer, audience: caller in (issuer, audience)
        return lambda issuer, audience: (
            caller in (issuer, audience) or access.allows(delegation_args(issuer, audience))
        )

    @staticmethod
    def _to_proto(state: ClusterState, delegation: Delegation, token: bytes) -> pb.Delegation:
        revokers = state.delegations.revocations.get(delegation.cid, frozenset())
        return delegation_to_proto(delegation, token, revokers)


def _explanation(explained: list[pb.AskExplanation]) -> pb.ExplainAccessResponse:
    return pb.ExplainAccessResponse(allowed=all(each.allowed for each in explained), asks=explained)


def _class_decides(rule: Rule) -> bool:
    """Whether a client needs no delegations, or none suffice."""
    by_delegations = rule.command is not None or rule.decides_itself
    return CallerClass.CLIENT not in rule.callers or not by_delegations


def _links_to(delegation: Delegation, bag: Iterable[Delegation]) -> list[Delegation]:
    """A delegation and what may precede it.

    Other delegations of its audience could hide that it grants nothing.
    """
    return [d for d in bag if d is delegation or d.audience != delegation.audience]
