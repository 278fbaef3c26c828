"""Principals without keys, their delegations and claims, for tests that read no token."""

from itertools import pairwise
from typing import Any, Final

import pytest

from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import DAG_CBOR, cid_of
from ipfs_cluster_node.core.ucan.arrange import find_access
from ipfs_cluster_node.core.ucan.chain import Claim, ProvenClaim, ValidationContext, check_chain
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.policies import parse_policy
from ipfs_cluster_node.core.ucan.profiles import PRODUCT
from ipfs_cluster_node.core.ucan.tokens import Delegation

NOW: Final = 1_790_000_000
CLUSTER, ALICE, BOB, CAROL, MALLORY = (
    Did(f"did:key:z6Mk{name}") for name in ("Cluster", "Alice", "Bob", "Carol", "Mallory")
)
ARGS: Final[dict[str, Value]] = {"namespace": "team-a", "priority": 3}


def validation_context(**fields: Any) -> ValidationContext:
    default: dict[str, Any] = {
        "profile": PRODUCT,
        "now_s": NOW,
        "authority": CLUSTER,
        "revocations": {},
    }
    return ValidationContext(**(default | fields))


def link(issuer: Did, audience: Did, command: str = "/task", **fields: Any) -> Delegation:
    policy = parse_policy(fields.pop("policy", []), profile=PRODUCT)
    default: dict[str, Any] = {"subject": CLUSTER, "expires_s": NOW + 3600, "nonce": b""}
    named = repr((issuer, audience, command, policy, fields)).encode()
    return Delegation(
        cid=cid_of(DAG_CBOR, named),
        issuer=issuer,
        audience=audience,
        command=Command(command),
        policy=policy,
        **(default | fields),
    )


def claim(issuer: Did, command: str = "/task/submit", **fields: Any) -> Claim:
    default: dict[str, Any] = {"subject": CLUSTER, "args": ARGS}
    return Claim(issuer=issuer, command=Command(command), **(default | fields))


def refused(claimed: Claim, *chain: Delegation, **fields: Any) -> tuple[str, int | None]:
    with pytest.raises(UcanError) as caught:
        check_chain(claimed, chain, validation_context(**fields))
    error = caught.value
    assert error.cid == (None if error.link is None else chain[error.link].cid)
    return str(error.name), error.link


def granted(claimed: Claim, *chain: Delegation, **fields: Any) -> ProvenClaim:
    return check_chain(claimed, chain, validation_context(**fields))


TO_ALICE: Final = link(CLUSTER, ALICE)
TO_BOB: Final = link(ALICE, BOB)
TO_CAROL: Final = link(BOB, CAROL)


def arranged(claimed: Claim, *bag: Delegation, **fields: Any) -> ProvenClaim:
    return find_access(claimed, bag, validation_context(**fields)).check(claimed.args)


def unarranged(claimed: Claim, *bag: Delegation, **fields: Any) -> tuple[str, int | None]:
    with pytest.raises(UcanError) as caught:
        arranged(claimed, *bag, **fields)
    return str(caught.value.name), caught.value.link


def chain_through(length: int) -> tuple[list[Delegation], Did]:
    people = [CLUSTER, *(Did(f"did:key:z6Mk{number}") for number in range(length))]
    return [link(giver, taker) for giver, taker in pairwise(people)], people[-1]
