"""The leader's membership: tokens, joiners, settings. Time is simulated."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from ipfs_cluster_node.adapters.keys.certificates import (
    enrolment_message,
    make_tls_key,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.tokens import hash_secret, parse_token
from ipfs_cluster_node.cluster import members as members_module
from ipfs_cluster_node.cluster.members import (
    TOKEN_TTL_DEFAULT,
    check_enrolment,
)
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import (
    Did,
)
from ipfs_cluster_node.core.model import (
    TOKEN_USES_MAX,
    Role,
)
from ipfs_cluster_node.core.settings import CHANGES_MAX, USER_VALUE_CHARS_MAX
from tests.support.members import (
    ISSUED,
    PEER,
    SECOND,
    Leader,
    refused,
)
from tests.support.virtual_time import now_ms, virtual_time
from tests.support.worlds import CLIENT, WORKER


@virtual_time
async def test_a_token_names_the_signing_root_and_its_secret_is_not_in_the_log() -> None:
    leader = Leader()
    minted = await leader.token(role=Role.MASTER, addresses=("a:1",), grant="", uses_max=3)
    secret = parse_token(minted.text)
    assert secret.ca_pin == leader.root_pin
    [token] = leader.members.join_tokens()
    assert token.token_id == secret.token_id
    assert token.secret_hash == hash_secret(secret.secret)
    assert secret.secret.encode() not in repr(token).encode()
    assert (token.role, token.addresses, token.uses_max) == (Role.MASTER, ("a:1",), 3)
    assert minted.expires_at_ms == token.expires_at_ms
    made_ms = now_ms()
    left_ms = token.expires_at_ms - made_ms
    assert 3_600_000 - 100 <= left_ms <= 3_600_000, "an hour, where nothing else is asked"
    assert (token.creator, token.needs_approval) == (CLIENT, False)
    approved = parse_token((await leader.token(needs_approval=True, grant="reader")).text)
    found = next(t for t in leader.members.join_tokens() if t.token_id == approved.token_id)
    assert (found.needs_approval, found.grant, found.uses_max) == (True, "reader", 1)


@pytest.mark.parametrize(
    ("changed", "good"),
    [
        ({"ttl": SECOND}, True),
        ({"ttl": SECOND - timedelta(milliseconds=1)}, False),
        ({"ttl": 24 * 3600 * SECOND}, True),
        ({"ttl": 24 * 3600 * SECOND + timedelta(milliseconds=1)}, False),
        ({"uses_max": TOKEN_USES_MAX}, True),
        ({"uses_max": TOKEN_USES_MAX + 1}, False),
        ({"uses_max": -1}, False),
    ],
)
def test_a_token_is_bounded(changed: dict[str, Any], good: bool) -> None:  # noqa: FBT001
    @virtual_time
    async def run() -> None:
        leader = Leader()
        if good:
            minted = await leader.token(**changed)
            ttl = changed.get("ttl", TOKEN_TTL_DEFAULT)
            assert minted.expires_at_ms - now_ms() <= ttl / SECOND * 1000
            assert minted.expires_at_ms - now_ms() > ttl / SECOND * 1000 - 100
            return
        error = await refused(leader.token(**changed))
        assert error.reason is Reason.INVALID_ARGUMENT
        assert leader.did == []

    run()


@virtual_time
async def test_a_repeated_request_for_a_token_makes_no_second_secret() -> None:
    leader = Leader()
    await leader.token(request_id="r")
    error = await refused(leader.token(request_id="r"))
    assert error.reason is Reason.REQUEST_ID_REUSED
    assert len(list(leader.members.join_tokens())) == 1


@virtual_time
async def test_a_leader_whose_clock_is_off_makes_no_token() -> None:
    leader = Leader()
    leader.clock_off = True
    assert (await refused(leader.token())).reason is Reason.CLOCK_OFF
    assert leader.did == []


@virtual_time
async def test_tokens_are_listed_by_id_and_a_revoked_one_is_gone() -> None:
    leader = Leader()
    made = [parse_token((await leader.token()).text).token_id for _ in range(6)]
    assert [t.token_id for t in leader.members.join_tokens()] == sorted(made)
    await leader.members.revoke_join_token(made[0], caller=CLIENT, request_id="r")
    assert made[0] not in {t.token_id for t in leader.members.join_tokens()}
    await leader.members.revoke_join_token(made[0], caller=CLIENT, request_id="r")  # A repeat.
    error = await refused(leader.members.revoke_join_token(made[0], caller=CLIENT, request_id="s"))
    assert error.reason is Reason.TOKEN_INVALID


class Joining:
    """A joiner with a token."""

    def __init__(self, leader: Leader, token: str, name: str = "joiner") -> None:
        self.secret = parse_token(token)
        self.identity = Identity.create()
        self.key = make_tls_key(self.identity)
        self.leader, self.name = leader, name
        self.proof = self.identity.sign(enrolment_message(self.secret.token_id, self.key.spki_der))

    async def redeem(self, *, secret: str = "", request_id: str = "") -> members_module.Admission:
        body = c.RedeemJoinToken(
            token_id=self.secret.token_id,
            secret_hash=hash_secret(secret or self.secret.secret),
            did=self.identity.did,
            name=self.name,
            endpoints=("h:1",),
            seal_key=b"",
        )
        return await self.leader.members.redeem_join_token(
            body,
            request_id=request_id,
            certificate_request=self.key.request_der,
            proof=self.proof,
        )


@virtual_time
async def test_a_joiner_is_checked_then_let_in_then_signed_for() -> None:
    leader = Leader()
    joining = Joining(leader, (await leader.token(role=Role.MASTER)).text)
    leader.did.clear()
    admission = await joining.redeem()
    assert leader.did == ["check", "RedeemJoinToken", "renew"]
    assert (admission.role, admission.grant) == (Role.MASTER, "")
    assert admission.issued is ISSUED
    member = leader.committed.members.get(joining.identity.did)
    assert member is not None
    assert admission.incarnation == member.incarnation > 0


@virtual_time
async def test_a_token_is_not_used_up_by_whoever_can_t_be_signed_for() -> None:
    leader = Leader()
    joining = Joining(leader, (await leader.token()).text)
    leader.cannot = "check"
    assert (await refused(joining.redeem())).reason is Reason.AUTHORITY_SEALED
    leader.cannot = ""
    await joining.redeem()


@virtual_time
async def test_who_has_no_token_or_no_proof_has_nothing_written() -> None:
    leader = Leader()
    text = (await leader.token()).text
    leader.did.clear()
    unknown = Joining(leader, text)
    unknown.secret = parse_token(text.replace(unknown.secret.token_id, "0" * 16))
    assert (await refused(unknown.redeem())).reason is Reason.TOKEN_INVALID
    forged = Joining(leader, text)
    forged.proof = bytes(64)
    assert (await refused(forged.redeem())).reason is Reason.PROOF_INVALID
    assert leader.did == []
    wrong = await refused(Joining(leader, text).redeem(secret="guess"))
    assert wrong.reason is Reason.TOKEN_INVALID
    assert leader.did == ["check", "RedeemJoinToken"], "a guess is counted in the log"
    assert wrong.retry_after is None


@virtual_time
async def test_who_needs_approval_waits_in_the_order_of_asking_until_somebody_decides() -> None:
    leader = Leader()
    text = (await leader.token(needs_approval=True, uses_max=3)).text
    people = [Joining(leader, text, name) for name in ("a", "b", "c")]
    for person in people:
        error = await refused(person.redeem())
        assert error.reason is Reason.APPROVAL_PENDING
        assert error.retry_after == 2 * SECOND
        await asyncio.sleep(1)
    assert [joiner.name for _, joiner in leader.members.joiners()] == ["a", "b", "c"]
    leader.did.clear()
    again = await refused(people[0].redeem())
    assert again.reason is Reason.APPROVAL_PENDING
    assert again.retry_after == 2 * SECOND
    assert leader.did == [], "asking again writes nothing"
    for person, approve in ((people[0], True), (people[1], False)):
        await leader.members.decide_joiner(
            c.DecideJoiner(
                token_id=person.secret.token_id, did=person.identity.did, approved=approve
            ),
            caller=CLIENT,
            request_id="",
        )
    await people[0].redeem()
    assert (await refused(people[1].redeem())).reason is Reason.JOIN_REJECTED
    await asyncio.sleep(TOKEN_TTL_DEFAULT.total_seconds())
    assert list(leader.members.joiners()) == [], "nobody waits with a token that has ended"


@virtual_time
async def test_a_node_that_does_not_lead_says_so_to_every_change() -> None:
    leader = Leader()
    text = (await leader.token()).text
    leader.is_leader = False
    members = leader.members
    decide = c.DecideJoiner(token_id="t", did=Did("d"), approved=True)
    for work in (
        leader.token(),
        Joining(leader, text).redeem(),
        members.revoke_join_token("t", caller=CLIENT, request_id="r"),
        members.decide_joiner(decide, caller=CLIENT, request_id="r"),
        members.register_node(leader.registration(WORKER), incarnation=0),
        members.remove_node(WORKER, caller=CLIENT, request_id="r"),
        members.transfer_leadership(PEER, source=None),
        members.replace_log(PEER, damaged=0, caller=CLIENT, request_id="r"),
        members.propose_config({"a": "b"}, if_values={}, caller=CLIENT, request_id="r"),
    ):
        assert (await refused(work)).reason is Reason.NOT_LEADER
    for read in (members.join_tokens, members.joiners):
        with pytest.raises(ClusterError):
            list(read())
    assert leader.did == ["CreateJoinToken"]


@virtual_time
async def test_settings_are_changed_a_bounded_number_at_once() -> None:
    leader = Leader()
    propose = leader.members.propose_config
    who: Any = {"caller": CLIENT, "request_id": ""}
    await propose({"user.a": "1"}, if_values={}, **who)
    assert leader.committed.settings.changed["user.a"] == "1"
    await propose({"user.a": "2"}, if_values={"user.a": "1"}, **who)
    error = await refused(propose({"user.a": "3"}, if_values={"user.a": "1"}, **who))
    assert error.reason is Reason.CONFIG_CHANGED
    many = {f"user.k{n}": "v" for n in range(CHANGES_MAX)}
    leader.did.clear()
    for values, if_values in ((many, {}), ({"user.a": "1"}, many)):
        # Not too many for one call; the log has its own bounds.
        assert not (await refused(propose(values, if_values=if_values, **who))).violations
    long = "x" * USER_VALUE_CHARS_MAX
    await propose({"user.long": long}, if_values={}, **who)
    more = {**many, "user.more": "v"}
    bad: list[tuple[dict[str, str], dict[str, str]]] = [
        ({}, {}),
        (more, {}),
        ({"user.a": "1"}, more),
        ({"user.long": long + "x"}, {}),
        ({"user.long": long[:-1] + "é"}, {}),
    ]
    for values, if_values in bad:
        error = await refused(propose(values, if_values=if_values, **who))
        assert error.reason is Reason.INVALID_ARGUMENT
        assert error.violations
    assert leader.did == ["ProposeConfig"] * 3


def test_only_who_owns_the_identity_and_the_tls_key_passes_the_check() -> None:
    identity, other = Identity.create(), Identity.create()
    key = make_tls_key(identity)

    def check(token_id: str, did: Did, signed_by: Identity, signed_for: str) -> None:
        proof = signed_by.sign(enrolment_message(signed_for, key.spki_der))
        check_enrolment(token_id=token_id, did=did, request_der=key.request_der, proof=proof)

    check("t", identity.did, identity, "t")
    for arguments in (
        ("t", identity.did, other, "t"),
        ("t", other.did, identity, "t"),
        ("u", identity.did, identity, "t"),
    ):
        with pytest.raises(ClusterError) as caught:
            check(*arguments)
        assert caught.value.reason is Reason.PROOF_INVALID
