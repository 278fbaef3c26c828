"""Decides what clients may do, by the delegations they present and those kept in the log.

Nodes are authorized the same way where a method's rule requires it.
"""

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Any, Final

from ipfs_cluster_node.access.call_tokens import CallTokens
from ipfs_cluster_node.access.context import Caller, CallerClass, Permissions, StateHolder
from ipfs_cluster_node.access.permissions import (
    AttemptPermissions,
    DelegatedPermissions,
    Unrestricted,
)
from ipfs_cluster_node.access.requirements import RequestContext
from ipfs_cluster_node.access.rules import Rule
from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.codec.errors import error_from_ucan
from ipfs_cluster_node.codec.metadata import ATTEMPT_KEY, UCAN_KEY
from ipfs_cluster_node.codec.tasks import attempt_from_text
from ipfs_cluster_node.codec.ucan_validator import DecodedTokens, Validator
from ipfs_cluster_node.core.authorization import (
    CONTENT_ADD,
    CONTENT_READ,
    Args,
    ItemArgs,
    Requirement,
    alternatives,
    distinct,
)
from ipfs_cluster_node.core.denials import NAMED_MAX, WORDS, Held, alike, denial, held_by
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.ids import Did, NodeId
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.core.multiformats import TOKEN_CODECS, Cid, parse_cid
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.ucan.access import Access
from ipfs_cluster_node.core.ucan.chain import Claim, ValidationContext, check_times
from ipfs_cluster_node.core.ucan.commands import Command, covers
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError, malformed
from ipfs_cluster_node.core.ucan.tokens import Delegation, Invocation

FOUND_MAX: Final = 4096
"""Accesses that are cached."""
FOUND_SECONDS_MAX: Final = 5
"""How long they are cached: a delegation takes effect at most this long after it begins."""
KEPT_LINKS_MAX: Final = 64
"""Delegations that may lead to one principal and are cached; more are gathered at each call. A
denial is put in words by at most as many."""
PROOFS_MAX: Final = 8
OF_ATTEMPTS: Final = frozenset({CONTENT_ADD, CONTENT_READ})
"""Commands that a worker may use on behalf of an attempt."""
REQUEST_ARGUMENT: Final = "request"
"""Of a signed invocation: SHA-256 of the request's bytes as sent."""


@dataclass(frozen=True, slots=True)
class RevokedPrincipals(Container[Did]):
    """Principals that were removed, or whose certificates were all revoked."""

    state: ClusterState

    def __contains__(self, did: object) -> bool:
        return did in self.state.members.removed or self.state.certificates.revokes(did)


class Authorizer:
    """Authorizes the calls of one node. Runs in the event loop's thread."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        holder: StateHolder,
        now_ms: Callable[[], int],
        clock: Clock,
    ) -> None:
        """Decide by this node's log; while it has none, it leaves clients to the masters.

        Tokens are judged by `now_ms`; how long this node runs is read off `clock`.
        """
        self._now_ms, self._monotonic = now_ms, clock.monotonic
        self._node_id = node_id
        self._holder = holder
        self.state = holder.known_state
        """Returns the state that permissions are judged by; None without a log."""
        self._known_state = holder.state
        self._started = self._monotonic()
        self._validator: Validator | None = None
        self._authority = Did("")
        self._found: OrderedDict[tuple[Did, Command], tuple[Access, int]] = OrderedDict()
        self._kept: dict[Did, list[Delegation]] = {}
        self._found_of: tuple[ClusterState | None, int, int] = (None, 0, 0)
        """Cached accesses stay valid until something is revoked or removed."""

    async def decide(
        self, caller: Caller, rule: Rule, request: Any, tokens: CallTokens
    ) -> Permissions:
        """Decide a call of `caller`, whose class may call the method; returns its permissions.

        Of a stream, `request` is the first.

        Raises:
            ClusterError: DELEGATION_INVALID, NOT_DELEGATED, or what is wrong with the request.
        """
        try:
            return await self._decide(caller, rule, request, tokens)
        except ClusterError as error:
            # What else a call carries or names, only its caller knows.
            if error.reason is Reason.NOT_DELEGATED and not tokens.container + tokens.proofs:
                raise self.denied(caller.did, error) from None
            raise

    async def _decide(
        self, caller: Caller, rule: Rule, request: Any, tokens: CallTokens
    ) -> Permissions:
        if rule.command is None or not rule.signable:
            self._check_unsigned(caller, tokens)
        if rule.command is None:
            return Unrestricted(caller)
        if self._holder.removal is not None and not rule.without_log:
            self._holder.check_in_cluster()
        by_class = caller.kind not in rule.delegated
        if by_class and not tokens.container:
            return await self._decide_by_class(caller, rule, rule.command, request, tokens.attempt)
        state = self.state()
        if state is None:
            if rule.without_log:
                return Unrestricted(caller)
            state = self._known_state()  # Raises why there is none.
        try:
            brought: DecodedTokens | None = None
            if tokens.container:
                brought = self.validator(state).read(tokens.container)
                if brought.invocation is not None:
                    digest = sha256(tokens.request).digest()
                    return await self._decide_signed(
                        brought, brought.invocation, rule, rule.command, request, digest
                    )
                if by_class:
                    self._usable(brought)
                    return await self._decide_by_class(
                        caller, rule, rule.command, request, tokens.attempt
                    )
            proofs = tokens.proofs

            def find(command: Command) -> Access:
                return self._access(caller.did, command, brought, proofs)

            accesses = {rule.command: find(rule.command)}
            permissions = DelegatedPermissions(
                caller, rule.command, accesses, find, self.now_s, cache_key=self.cache_key
            )
        except UcanError as error:
            raise error_from_ucan(error, command=rule.command, now_s=self.now_s()) from None
        context = RequestContext(caller.did, self._node_id, state)
        for requirement in rule.required(request, context) if rule.required else ():
            await permissions.check(requirement)
        return permissions

    def denied(self, did: Did, error: ClusterError) -> ClusterError:
        """The same NOT_DELEGATED, in words: what `did` may do by what is stored for it, instead.

        As it is, if more than `KEPT_LINKS_MAX` are.
        """
        command = Command(error.metadata.get("command", ""))
        if command not in WORDS:
            return error
        if len(self._known_state().delegations.chain_of(did)) > KEPT_LINKS_MAX:
            return error  # Its words would cost more than the call.
        kept = self.kept([did])
        held_under = partial(self._held, did, kept)
        held = [each for each in map(held_under, alike(command)) if each is not None]
        message = denial(
            command, did, held_under(command), held, error.metadata.get("namespace", "")
        )
        return ClusterError(error.reason, message, metadata=error.metadata)

    def _held(self, did: Did, kept: Sequence[Delegation], command: Command) -> Held | None:
        """What `did` may do under a command by what is `kept` for it; None if nothing."""
        state = self._known_state()
        claim = Claim(issuer=did, subject=state.cluster_did, command=command, args={})
        context = self.validation_context(state)
        mine = [each for each in kept if each.audience == did and covers(each.command, command)]
        before = [link for link in kept if link.audience != did]
        ways = (Access.found(claim, [link, *before], context) for link in mine[:NAMED_MAX])
        chains = [way.nearest for way in ways if way is not None]
        return held_by(command, chains) if chains else None

    def _check_unsigned(self, caller: Caller, tokens: CallTokens) -> None:
        """Refuse a signed call: its carrier would be the caller, or half of it unsigned."""
        state = self.state()
        if not tokens.container or state is None:
            return
        if caller.kind is CallerClass.JOINER:
            # Anyone may be one: nothing is verified for it before its own calls are limited.
            raise invalid_field(UCAN_KEY, "a joiner can't use delegations; call without it")
        try:
            brought = self.validator(state).read(tokens.container)
            self._usable(brought)
        except UcanError as error:
            raise error_from_ucan(error, now_s=self.now_s()) from None
        if brought.invocation is not None:
            raise error_from_ucan(
                UcanError(Refusal.INVALID_CLAIM, "this method accepts no signed invocation")
            )

    async def _decide_by_class(
        self, caller: Caller, rule: Rule, command: Command, request: Any, attempt: str
    ) -> Permissions:
        """Decide a call of a caller that needs no delegation."""
        if caller.kind is CallerClass.NODE and command in OF_ATTEMPTS:
            return await self._decide_node(caller, rule, command, request, attempt)
        return Unrestricted(caller)

    async def _decide_node(
        self, caller: Caller, rule: Rule, command: Command, request: Any, attempt: str
    ) -> Permissions:
        """Decide a node's file read: a leecher reads any file; a worker, those of its attempts.

        An attempt has the inputs that its submitter was allowed, never what the worker could read.
        """
        state = self.state()
        if state is None:
            raise ClusterError(
                Reason.CALLER_NOT_ALLOWED,
                "this node has no log to check your attempt against; ask a master",
            )
        member = state.members.get(caller.did)
        if member is not None and member.role is Role.LEECHER:
            return Unrestricted(caller)
        if not attempt:
            raise ClusterError(
                Reason.NOT_DELEGATED,
                f"a worker may read only files of its attempts: name one in {ATTEMPT_KEY}",
            )
        permissions = AttemptPermissions(caller, attempt_from_text(attempt), self._known_state)
        await permissions.renew()
        if command == CONTENT_READ and rule.required:
            for requirement in rule.required(
                request, RequestContext(caller.did, self._node_id, state)
            ):
                if not all(map(permissions.allows, requirement.each)):
                    raise ClusterError(
                        Reason.NOT_DELEGATED, f"not an input of {permissions.attempt.task_id}"
                    )
        return permissions

    async def _decide_signed(
        self,
        brought: DecodedTokens,
        invocation: Invocation,
        rule: Rule,
        command: Command,
        request: Any,
        digest: bytes,
    ) -> Permissions:
        """Decide a signed call: the signer is the caller, and the TLS peer only carries it.

        The arguments that policies judge are signed, and the whole request by its digest, or the
        carrier could change the rest. The request's id is included too: a new leader that did not
        see the invocation then returns the first answer.
        """
        state, issuer = self._known_state(), invocation.issuer
        requirements: list[Requirement] = []

        def args_of() -> Args | None:
            if rule.required:
                requirements.extend(
                    rule.required(request, RequestContext(issuer, self._node_id, state))
                )
            each = (
                item
                for requirement in requirements
                if requirement.command == command
                for item in requirement.each
            )
            main: list[ItemArgs] = list(islice(distinct(each), 2)) or [{}]
            if len(main) > 1:
                return None
            ways = alternatives(main[0])  # Of a file in several namespaces, the signed one.
            signed = (args for args in ways if args.items() <= invocation.args.items())
            return {**next(signed, ways[0]), REQUEST_ARGUMENT: digest}

        def kept(cid: Cid) -> bytes | None:
            stored = state.delegations.get(cid)
            return None if stored is None else stored.token

        grant = self.validator(state).invoked(
            brought,
            command=command,
            args_of=args_of,
            context=self.validation_context(state),
            stored=kept,
            by_item=rule.required is None,
        )

        def find(asked: Command) -> Access:
            kept = self.kept([issuer, *(d.issuer for d in grant.chain)])
            return self._find(issuer, asked, [*grant.chain, *kept])

        access = Access.found(grant.claim, grant.chain, self.validation_context(state))
        assert access is not None, "its chain was just verified"
        caller = Caller(issuer, CallerClass.CLIENT)
        granted = [] if rule.required is None else [grant]
        permissions = DelegatedPermissions(
            caller, command, {command: access}, find, self.now_s, granted, self.cache_key
        )
        for requirement in requirements:
            if requirement.command != command:
                await permissions.check(requirement)
        return permissions

    def now_s(self) -> int:
        """The time that tokens are judged by, in seconds since 1970 (UTC)."""
        return self._now_ms() // 1000

    def validator(self, state: ClusterState) -> Validator:
        """The validator for tokens of this cluster."""
        if self._validator is None or self._authority != state.cluster_did:
            self._authority = state.cluster_did
            # By the current clock: one that was wrong at the start would refuse for as long.
            started_s = self.now_s() - int(self._monotonic() - self._started)
            self._validator = Validator(authority=self._authority, started_s=started_s)
        return self._validator

    def forget(self) -> None:
        """Forget what was found in a log that is dropped."""
        self._found.clear()
        self._kept.clear()
        self._found_of = (None, 0, 0)

    def validation_context(self, state: ClusterState) -> ValidationContext:
        """The time and revocations that calls are judged by now."""
        return self.validator(state).validation_context(
            now_s=self.now_s(),
            revocations=state.delegations.revocations,
            revoked_dids=RevokedPrincipals(state),
        )

    def cache_key(self) -> tuple[ClusterState, int, int]:
        """Changes with all that may end a permission: removals, revocations, kept delegations."""
        state = self._known_state()
        return state, state.delegations.version, state.certificates.version

    def access(self, caller: Did, command: Command) -> Access:
        """What a caller may do under a command, by all delegations kept for it.

        Raises:
            UcanError: Nothing is allowed; says why.
        """
        self._drop_if_changed()
        now_s = self.now_s()
        known = self._found.get((caller, command))
        if known is not None:
            access, found_s = known
            fresh = found_s <= now_s < found_s + FOUND_SECONDS_MAX
            if fresh and (access.until_s is None or now_s < access.until_s):
                return access
        access = self._find(caller, command, self.kept([caller]))
        self._found[caller, command] = (access, now_s)
        if len(self._found) > FOUND_MAX:
            self._found.popitem(last=False)
        return access

    def kept(self, holders: Iterable[Did]) -> list[Delegation]:
        """Kept delegations that may end at these principals, verified."""
        self._drop_if_changed()
        found = {d.cid: d for holder in dict.fromkeys(holders) for d in self._kept_for(holder)}
        return list(found.values())

    def _kept_for(self, holder: Did) -> list[Delegation]:
        kept = self._kept.get(holder)
        if kept is None:
            state = self._known_state()
            validator = self.validator(state)
            chain = state.delegations.chain_of(holder)
            kept = [validator.stored(stored.token) for stored in chain]
            if len(self._kept) >= FOUND_MAX:
                self._kept.clear()
            if len(kept) <= KEPT_LINKS_MAX:
                self._kept[holder] = kept
        return kept

    def _drop_if_changed(self) -> None:
        """Drop what is cached if anything that it depends on has changed."""
        found_of = self.cache_key()
        if self._found_of != found_of:
            self._found.clear()
            self._kept.clear()
            self._found_of = found_of

    def completed(self, caller: Did, delegations: Sequence[Delegation]) -> list[Delegation]:
        """These delegations, completed by all that are kept for the caller and their issuers."""
        issuers = (delegation.issuer for delegation in delegations)
        return [*delegations, *self.kept([*issuers, caller])]

    def with_kept(self, delegations: Sequence[Delegation]) -> list[Delegation]:
        """These delegations, and kept ones that may precede them in a chain."""
        return [*delegations, *self.kept(delegation.issuer for delegation in delegations)]

    def _access(
        self, caller: Did, command: Command, brought: DecodedTokens | None, proofs: str
    ) -> Access:
        """By all that are kept for the caller and those presented; or by those named alone."""
        if brought is not None:
            return self._find(caller, command, self.completed(caller, self._usable(brought)))
        if proofs:
            return self._find(caller, command, self.with_kept(self._named(proofs)))
        return self.access(caller, command)

    def _usable(self, brought: DecodedTokens) -> list[Delegation]:
        """The delegations of a container, each valid now: else its bearer should know.

        Raises:
            UcanError: One is malformed, not signed by its issuer, or not valid at this time.
        """
        state = self._known_state()
        delegations = self.validator(state).delegations(brought)
        context = self.validation_context(state)
        for delegation in delegations:
            check_times(delegation, context)
        return delegations

    def _find(self, caller: Did, command: Command, delegations: Sequence[Delegation]) -> Access:
        state = self._known_state()
        context = self.validation_context(state)
        return self.validator(state).access(caller, command, delegations, context)

    def _named(self, proofs: str) -> list[Delegation]:
        texts = proofs.split(",")
        if len(texts) > PROOFS_MAX:
            raise UcanError(Refusal.TOO_LARGE, f"a call names at most {PROOFS_MAX} proofs")
        state = self._known_state()
        named = []
        for text in texts:
            try:
                cid = parse_cid(text.strip(), codecs=TOKEN_CODECS)
            except ValueError as error:
                raise malformed(f"a proof is named by its CID: {error}") from None
            stored = state.delegations.get(cid)
            if stored is None:
                detail = "no delegation of this CID is kept; put it first"
                raise UcanError(Refusal.UNAVAILABLE_PROOF, detail, cid=cid)
            named.append(self.validator(state).stored(stored.token))
        return named
