"""Certificates in the replicated state."""

from dataclasses import replace

import pytest

from ipfs_cluster_node.codec.commands import decode_command, encode_command
from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core.certificates import (
    CERTIFICATES_PER_OWNER_MAX,
    RENEW_EXPIRED_MAX,
    REPEAT_MS_MAX,
    Authority,
    CertificateRecord,
    CertificateRevocation,
    CertificateTable,
    RotationPhase,
)
from ipfs_cluster_node.core.commands import (
    CommandBody,
    CreateJoinToken,
    ExpireRecords,
    IssueCertificate,
    LogCommand,
    PutDelegation,
    RedeemJoinToken,
    RemoveNode,
    RevokeCertificate,
    RevokeDelegation,
    RevokeJoinToken,
    SetAuthority,
)
from ipfs_cluster_node.core.delegations import StoredDelegation, StoredRevocation
from ipfs_cluster_node.core.effects import Accepted, CertificatesRevoked, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import did_from_public_key, node_id_from_did
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.core.multiformats import DAG_CBOR, Cid
from ipfs_cluster_node.core.state import EXPIRY_STEP_MS_MAX, ClusterState
from tests.support.certificate_states import CLIENT, CLUSTER, DAY_S, OTHER, apply, cluster, record


def expire(state: ClusterState, *, at_s: int) -> None:
    """As after the many expiries that come before this one."""
    state.judged_at_ms = at_s * 1000
    apply(state, ExpireRecords(), at_s=at_s)


def issue(state: ClusterState, made: CertificateRecord, *, at_s: int = 0) -> Accepted | Rejected:
    return apply(state, IssueCertificate(record=made), at_s=at_s)


def reason(outcome: Accepted | Rejected) -> Reason:
    assert isinstance(outcome, Rejected)
    return outcome.reason


def test_a_certificate_is_issued_once_and_to_members_only() -> None:
    state = cluster()
    assert issue(state, record(1)) == Accepted()
    assert state.certificates.newest(CLIENT) == record(1)
    assert reason(issue(state, record(1))) is Reason.OVERLOADED
    stranger = replace(record(2), did=did_from_public_key(bytes(31) + b"\x09"))
    assert reason(issue(state, stranger)) is Reason.CALLER_UNKNOWN
    apply(state, RemoveNode(node_id=node_id_from_did(CLIENT)))
    assert reason(issue(state, record(3))) is Reason.CALLER_UNKNOWN


def test_a_certificate_that_was_signed_by_a_root_of_before_is_not_issued() -> None:
    state = cluster()
    changed = replace(state.certificates.authority, version=2, epoch=1)
    assert apply(state, SetAuthority(authority=changed)) == Accepted()
    assert reason(issue(state, record(1))) is Reason.AUTHORITY_SEALED
    assert issue(state, record(1, epoch=1)) == Accepted()


def test_one_of_two_changes_of_the_authority_from_the_same_one_holds() -> None:
    state = cluster()
    first = replace(state.certificates.authority, version=2, key_id="a")
    second = replace(state.certificates.authority, version=2, key_id="b")
    assert apply(state, SetAuthority(authority=first)) == Accepted()
    assert reason(apply(state, SetAuthority(authority=second))) is Reason.AUTHORITY_SEALED
    assert state.certificates.authority.key_id == "a"


def test_one_member_holds_so_many_certificates_that_have_not_ended() -> None:
    state = cluster()
    for serial in range(1, CERTIFICATES_PER_OWNER_MAX + 1):
        assert issue(state, record(serial)) == Accepted()
    assert reason(issue(state, record(1000))) is Reason.OVERLOADED
    assert issue(state, record(1000, not_after_s=3 * DAY_S), at_s=DAY_S) == Accepted()


def test_a_tls_key_gets_another_certificate_only_where_the_answer_may_be_lost() -> None:
    """A stolen key is valid until its certificate ends, and no longer."""
    state = cluster(record(1))
    again = replace(record(2, not_after_s=2 * DAY_S), spki_hash=record(1).spki_hash)
    late_s = REPEAT_MS_MAX // 1000
    assert issue(state, replace(again, issued_at_ms=REPEAT_MS_MAX), at_s=late_s) == Accepted()
    # That one begins no new time.
    refused = issue(state, replace(again, serial=3), at_s=late_s + 1)
    assert reason(refused) is Reason.INVALID_ARGUMENT
    assert issue(state, record(3, not_after_s=2 * DAY_S), at_s=late_s + 1) == Accepted()
    # Nor when it has ended, as long as it is renewed by.
    expire(state, at_s=4 * DAY_S)
    last = replace(record(4, not_after_s=5 * DAY_S), spki_hash=record(3).spki_hash)
    assert reason(issue(state, last, at_s=4 * DAY_S)) is Reason.INVALID_ARGUMENT


def test_a_revoked_certificate_and_a_revoked_member_count_no_more() -> None:
    state = cluster(record(1), record(2))
    command = LogCommand(
        at_ms=0, body=RevokeCertificate(revocation=CertificateRevocation(serial=1, until_s=DAY_S))
    )
    applied = state.apply(command)
    assert applied.outcome == Accepted()
    assert CertificatesRevoked() in applied.effects
    assert state.certificates.is_revoked(1, CLIENT)
    assert not state.certificates.is_revoked(2, CLIENT)
    apply(state, RevokeCertificate(revocation=CertificateRevocation(did=CLIENT)))
    assert state.certificates.is_revoked(2, CLIENT)
    assert reason(issue(state, record(3))) is Reason.CERTIFICATE_REVOKED
    unknown = RevokeCertificate(revocation=CertificateRevocation(serial=99))
    assert reason(apply(state, unknown)) is Reason.CERTIFICATE_NOT_FOUND


def join_token(token_id: str) -> CreateJoinToken:
    return CreateJoinToken(
        token_id=token_id,
        secret_hash=bytes(32),
        role=Role.CLIENT,
        expires_at_ms=10**15,
        uses_max=9,
        addresses=(),
        grant="user",
    )


@pytest.mark.parametrize("revoked", [True, False])
def test_who_was_removed_is_never_let_in_again(*, revoked: bool) -> None:
    """The permissions it had received and delegated, and any thief of its key, would come back."""
    state = cluster(record(1))
    if revoked:
        apply(state, RevokeCertificate(revocation=CertificateRevocation(did=CLIENT)))
    apply(state, RemoveNode(node_id=node_id_from_did(CLIENT)))
    apply(state, join_token("t"))
    said = []
    for did in (CLIENT, OTHER, OTHER):
        joined = RedeemJoinToken(
            token_id="t", secret_hash=bytes(32), did=did, name="c", endpoints=()
        )
        outcome = apply(state, joined)
        said.append(outcome.message if isinstance(outcome, Rejected) else "is in")
    gone, came, again = said
    assert "removed for good" in gone
    assert "join with a new one" in gone
    assert came == "is in"
    assert "is a member already" in again
    [token] = state.members.tokens()
    assert token.dids == (OTHER,)
    assert CLIENT in state.members.removed
    assert state.certificates.revocations() == ()


@pytest.mark.parametrize(
    "gone",
    [
        RemoveNode(node_id=node_id_from_did(CLIENT)),
        RevokeCertificate(revocation=CertificateRevocation(did=CLIENT)),
    ],
)
def test_join_tokens_end_with_who_made_them(gone: CommandBody) -> None:
    state = cluster(record(1))
    for token_id, creator in (("mine", CLIENT), ("theirs", OTHER)):
        outcome = state.apply(
            LogCommand(at_ms=1, body=join_token(token_id), caller=creator)
        ).outcome
        assert isinstance(outcome, Accepted)
    again = ClusterState(decode_snapshot(encode_snapshot(state.data())))
    for each in (state, again):
        apply(each, gone)
        assert [token.token_id for token in each.members.tokens()] == ["theirs"]


@pytest.mark.parametrize(
    "gone",
    [
        RemoveNode(node_id=node_id_from_did(CLIENT)),
        RevokeCertificate(revocation=CertificateRevocation(did=CLIENT)),
    ],
)
def test_who_is_gone_makes_no_join_token_by_a_call_that_was_under_way(gone: CommandBody) -> None:
    state = cluster(record(1))
    apply(state, gone)
    late = state.apply(LogCommand(at_ms=1, body=join_token("t"), caller=CLIENT, request_id="r"))
    assert reason(late.outcome) is Reason.CALLER_UNKNOWN
    assert state.members.tokens() == ()


def test_revocations_of_who_was_removed_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipfs_cluster_node.core.certificates.REVOCATIONS_MAX", 2)
    state = cluster(record(1))
    by_serial = RevokeCertificate(revocation=CertificateRevocation(serial=1, until_s=DAY_S))
    by_did = RevokeCertificate(revocation=CertificateRevocation(did=CLIENT))
    assert [apply(state, each) for each in (by_serial, by_did)] == [Accepted(), Accepted()]
    assert state.certificates.full()
    apply(state, RemoveNode(node_id=node_id_from_did(CLIENT)))
    assert state.certificates.revocations() == ()
    # Nothing of it counts already.
    assert [apply(state, each) for each in (by_serial, by_did)] == [Accepted(), Accepted()]
    assert state.certificates.revocations() == ()


def test_a_join_token_is_revoked() -> None:
    state = cluster(record(1))
    apply(state, join_token("t"))
    revoke = RevokeJoinToken(token_id="t")
    assert decode_command(encode_command(LogCommand(at_ms=1, body=revoke))).body == revoke
    assert apply(state, revoke) == Accepted()
    assert state.members.tokens() == ()
    assert reason(apply(state, revoke)) is Reason.TOKEN_INVALID


def test_the_newest_certificate_is_remembered_for_as_long_as_it_can_be_renewed() -> None:
    state = cluster(record(1), record(2))
    expire(state, at_s=2 * DAY_S)
    assert [r.serial for r in state.certificates.records()] == [2]
    end_s = DAY_S + int(RENEW_EXPIRED_MAX.total_seconds())
    expire(state, at_s=end_s - 1)
    assert state.certificates.get(2) is not None
    expire(state, at_s=end_s + 1)
    assert state.certificates.records() == ()


def test_a_revocation_outlives_its_certificates_renewal() -> None:
    state = cluster(record(1))
    revocation = CertificateRevocation(serial=1, until_s=DAY_S)
    apply(state, RevokeCertificate(revocation=revocation))
    end_s = DAY_S + int(RENEW_EXPIRED_MAX.total_seconds())
    expire(state, at_s=end_s - 1)
    assert state.certificates.is_revoked(1, CLIENT)
    expire(state, at_s=end_s + 1)
    assert not state.certificates.is_revoked(1, CLIENT)


def test_a_leaders_clock_far_ahead_has_no_revocation_forgotten() -> None:
    state = cluster(record(1))
    apply(state, RevokeCertificate(revocation=CertificateRevocation(serial=1, until_s=DAY_S)))
    apply(state, ExpireRecords(), at_s=DAY_S)
    years_s, step_s = 3650 * DAY_S, EXPIRY_STEP_MS_MAX // 1000
    again = ClusterState(decode_snapshot(encode_snapshot(state.data())))
    for each in (state, again):
        for number in range(1, 11):
            apply(each, ExpireRecords(), at_s=years_s)
            assert each.judged_at_ms == 1000 * (DAY_S + number * step_s)
        assert each.certificates.is_revoked(1, CLIENT)
        # A clock at its epoch turns it back no further: it would take years to catch up.
        apply(each, ExpireRecords(), at_s=1)
        assert each.judged_at_ms == 1000 * (DAY_S + 9 * step_s)
    # The right time, within reach, is taken as it is.
    apply(state, ExpireRecords(), at_s=DAY_S + 9 * step_s + 1)
    assert state.judged_at_ms == 1000 * (DAY_S + 9 * step_s + 1)


def test_what_the_cluster_took_back_from_a_client_is_not_given_again() -> None:
    state = cluster()
    stored = StoredDelegation(
        cid=Cid(DAG_CBOR, bytes(32)), token=b"t", issuer=CLUSTER, audience=CLIENT, expires_s=DAY_S
    )
    apply(state, PutDelegation(delegations=(stored,)))
    by_another = StoredRevocation(stored.cid, CLIENT, DAY_S)
    apply(state, RevokeDelegation(revocation=by_another))
    client = state.members.get(CLIENT)
    assert client is not None
    assert client.grant == "operator"
    apply(state, RevokeDelegation(revocation=StoredRevocation(stored.cid, CLUSTER, DAY_S)))
    client = state.members.get(CLIENT)
    assert client is not None
    assert client.grant == ""


def test_a_snapshot_brings_certificates_revocations_and_the_authority_back() -> None:
    state = cluster(record(1), record(2**150))
    apply(state, RevokeCertificate(revocation=CertificateRevocation(serial=1, until_s=5)))
    apply(state, RevokeCertificate(revocation=CertificateRevocation(did=CLIENT)))
    authority = Authority(
        version=2,
        key_id="k",
        ciphertext=b"c",
        wraps=((CLIENT, b"w"),),
        recovery_key=b"r",
        recovery_wrap=b"rw",
        roots=("a", "b"),
        signer=1,
        epoch=4,
        phase=RotationPhase.REISSUING,
        phase_at_ms=9,
    )
    apply(state, SetAuthority(authority=authority))
    again = ClusterState(decode_snapshot(list(encode_snapshot(state.data()))))
    assert again.data() == state.data()
    assert again.certificates.authority == authority
    assert again.certificates.is_revoked(1, CLIENT)


def test_past_the_most_that_are_remembered_the_first_to_end_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Finding it took 13 ms each time, on every master."""
    monkeypatch.setattr("ipfs_cluster_node.core.certificates.CERTIFICATES_MAX", 5)
    table = CertificateTable()
    kept: list[CertificateRecord] = []
    for number in range(1, 60):
        one = replace(record(number), not_after_s=(number * 37) % 50)
        table.issue(one)
        kept = sorted([*kept, one], key=lambda r: (r.not_after_s, r.serial))[-5:]
        assert {r.serial for r in table.records()} == {r.serial for r in kept}
        if number == 30:
            table.forget(10**6)
            kept = list(table.records())
    assert len(table._by_end) <= 2 * 5 + 1


def test_certificates_are_forgotten_some_at_a_time() -> None:
    table = CertificateTable([record(n) for n in range(1, 8)])
    steps = 0
    while table.forget(10**9, 2):
        steps += 1
    assert steps == 3
    assert table.records() == ()
