"""The contents of invocations, and that none is used twice."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import DAG_CBOR, Cid, cid_of
from ipfs_cluster_node.core.ucan.chain import check_invocation
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.profiles import PRODUCT, SPECIFICATION
from ipfs_cluster_node.core.ucan.replay import UsedInvocations
from ipfs_cluster_node.core.ucan.tokens import Invocation
from tests.support.claims import ALICE, ARGS, BOB, CAROL, CLUSTER, MALLORY, NOW, validation_context

# Invocations by themselves


def invocation(**fields: Any) -> Invocation:
    default: dict[str, Any] = {
        "issuer": ALICE,
        "subject": CLUSTER,
        "command": Command("/task/submit"),
        "args": ARGS,
        "proofs": (),
        "nonce": b"",
        "expires_s": NOW + 60,
        "issued_s": NOW,
    }
    fields = default | fields
    cid = fields.pop("cid", None) or cid_of(DAG_CBOR, repr(fields).encode())
    return Invocation(cid=cid, **fields)


def invocation_refused(**fields: Any) -> str:
    judged = {key: fields.pop(key) for key in ("profile", "now_s", "authority") if key in fields}
    with pytest.raises(UcanError) as caught:
        check_invocation(invocation(**fields), validation_context(**judged))
    assert caught.value.link is None
    assert caught.value.cid == invocation(**fields).cid
    return str(caught.value.name)


def test_an_invocation_lives_five_minutes_at_most() -> None:
    check_invocation(invocation(expires_s=NOW + 300), validation_context())
    assert invocation_refused(expires_s=NOW + 301) == "InvalidClaim"
    assert invocation_refused(expires_s=None) == "InvalidClaim"
    anything = validation_context(profile=SPECIFICATION)
    check_invocation(invocation(expires_s=None), anything)
    check_invocation(invocation(expires_s=NOW + 9999), anything)
    assert invocation_refused(expires_s=NOW - 60) == "Expired"
    assert invocation_refused(expires_s=NOW - 60, profile=SPECIFICATION) == "Expired"
    check_invocation(invocation(expires_s=NOW - 59), validation_context())
    assert invocation_refused(not_before_s=NOW + 61) == "TooEarly"
    check_invocation(invocation(not_before_s=NOW + 60), validation_context())


def test_an_invocation_is_about_the_cluster_and_for_it() -> None:
    check_invocation(invocation(audience=CLUSTER), validation_context())
    assert invocation_refused(audience=BOB) == "InvalidAudience"
    assert invocation_refused(subject=ALICE) == "InvalidAudience"
    # Its issuer is the subject, so it needs no proof: it must not pass for the cluster's.
    assert invocation_refused(subject=ALICE, audience=CLUSTER) == "InvalidSubject"
    other = validation_context(profile=SPECIFICATION, authority=None)
    check_invocation(invocation(subject=ALICE, audience=BOB), other)


# Replay


def used(since_s: int = NOW - 9999, **fields: Any) -> UsedInvocations:
    return UsedInvocations(since_s=since_s, **({"profile": PRODUCT} | fields))


def use(store: UsedInvocations, token: Invocation, *, now_s: int, holder: Did = ALICE) -> None:
    store.use(token, holder=holder, now_s=now_s)


def replayed(store: UsedInvocations, token: Invocation, now_s: int = NOW) -> bool:
    try:
        use(store, token, now_s=now_s)
    except UcanError as error:
        assert error.name is Refusal.REPLAY
        assert error.cid == token.cid
        return True
    return False


def test_an_invocation_is_used_once_until_it_has_expired() -> None:
    store, token = used(), invocation(expires_s=NOW + 60)
    assert not replayed(store, token)
    for now_s in (NOW, NOW + 60, NOW + 119, NOW + 120, NOW + 9999):
        assert replayed(store, token, now_s)
    assert not replayed(store, invocation(nonce=b"2", expires_s=NOW + 99_999), NOW + 10_000)


def test_what_has_expired_is_forgotten() -> None:
    store = used()
    for number in range(10):
        use(store, invocation(expires_s=NOW + number), now_s=NOW)
    assert len(store) == 10
    use(store, invocation(expires_s=NOW + 200), now_s=NOW + 60 + 4)
    assert len(store) == 6
    use(store, invocation(expires_s=NOW + 900), now_s=NOW + 800)
    assert len(store) == 1


def test_a_clock_that_goes_back_lets_nothing_in_again() -> None:
    store, token = used(), invocation(expires_s=NOW + 10)
    use(store, token, now_s=NOW)
    use(store, invocation(expires_s=NOW + 500), now_s=NOW + 400)
    assert len(store) == 1
    assert replayed(store, token, NOW)


def test_what_may_have_been_used_before_the_start_is_refused() -> None:
    store = used(since_s=NOW)
    assert replayed(store, invocation(issued_s=NOW - 100, expires_s=NOW + 60))
    assert replayed(store, invocation(issued_s=None, expires_s=NOW + 299))
    # Signed by a clock that may be a minute ahead.
    assert replayed(store, invocation(issued_s=NOW + 59, expires_s=NOW + 60))
    assert not replayed(store, invocation(issued_s=NOW + 60, expires_s=NOW + 60))
    # This one lived too long to be taken before the start.
    assert not replayed(store, invocation(issued_s=NOW - 100, expires_s=NOW + 300))
    assert not replayed(store, invocation(issued_s=None, expires_s=NOW + 300))
    # A time of issue beyond any clock's error says nothing.
    assert replayed(store, invocation(issued_s=NOW + 61, expires_s=NOW + 61))
    specified = used(since_s=NOW, profile=SPECIFICATION)
    assert replayed(specified, invocation(issued_s=None, expires_s=NOW + 9999))
    assert not replayed(specified, invocation(issued_s=NOW + 60, expires_s=NOW + 9999))


def test_no_invocation_is_remembered_for_ever() -> None:
    with pytest.raises(UcanError, match="InvalidClaim"):
        use(used(), invocation(expires_s=None), now_s=NOW)


def test_a_full_memory_refuses_and_makes_room_by_time() -> None:
    store = used(used_max=3, used_per_holder_max=2)
    for number in range(2):
        use(store, invocation(nonce=bytes([number])), now_s=NOW)
    with pytest.raises(ClusterError) as caught:
        use(store, invocation(nonce=b"third of Alice"), now_s=NOW)
    assert caught.value.reason is Reason.OVERLOADED
    # Whoever she delegates to shares her quota.
    with pytest.raises(ClusterError):
        use(store, invocation(issuer=MALLORY), now_s=NOW)
    use(store, invocation(issuer=BOB), holder=BOB, now_s=NOW)
    with pytest.raises(ClusterError):
        use(store, invocation(issuer=CAROL), holder=CAROL, now_s=NOW)
    assert len(store) == 3
    # What was refused for lack of room was not used.
    later = NOW + 120
    use(store, invocation(issuer=CAROL, expires_s=later), holder=CAROL, now_s=later)
    for number in range(2):
        use(store, invocation(nonce=bytes([number]), expires_s=later), now_s=later)
    assert len(store) == 3


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 400), st.integers(0, 300))))
def test_no_invocation_is_ever_used_twice(events: list[tuple[int, int, int]]) -> None:
    store = used(since_s=NOW)
    taken: set[Cid] = set()
    for number, later, life in events:
        token = invocation(nonce=bytes([number]), expires_s=NOW + 300 + life, issued_s=NOW + later)
        if not replayed(store, token, NOW + later):
            assert token.cid not in taken
            taken.add(token.cid)


def test_who_used_invocations_is_forgotten_with_them() -> None:
    """Otherwise the node's memory grows with every caller it ever had."""
    store = used()
    for issuer in (ALICE, BOB):
        use(store, invocation(issuer=issuer), holder=issuer, now_s=NOW)
    assert len(store._count_by_holder) == 2
    later = invocation(issuer=CAROL, issued_s=NOW + 999, expires_s=NOW + 1059)
    use(store, later, holder=CAROL, now_s=NOW + 999)
    assert list(store._count_by_holder) == [CAROL]
