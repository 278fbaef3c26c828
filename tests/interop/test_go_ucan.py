"""Tokens of go-ucan judged here, and ours judged by it. Both must come to the same CIDs.

go-ucan wants the proofs of an invocation leaf first, and the specification's fixtures root first:
chains of several links hold on one side only, and tests say so.
"""

import base64
from pathlib import Path
from typing import Any, Final

import pytest

from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.errors import UcanError
from tests.support.interop import Ours, ask_program, validate

PROGRAM: Final = Path(__file__).parents[2] / ".tools/bin/ucan-interop"


RELEASE: Final = "1.0.0-rc.1"
pytestmark = pytest.mark.tools


def ask(document: Any) -> dict[str, Any]:
    if not PROGRAM.exists():
        pytest.skip("go-ucan is not there; scripts/test without arguments installs it")
    return ask_program([str(PROGRAM)], document)


def test_their_tokens_are_taken_here_under_the_same_cids() -> None:
    made = ask({"make": 1})
    grant = validate(made)
    assert [str(delegation.cid) for delegation in grant.chain] == [p["cid"] for p in made["proofs"]]
    assert grant.claim.issuer == made["issuer"]
    invocation = base64.b64decode(made["invocation"]["token"])
    assert str(cid_of_token(invocation)) == made["invocation"]["cid"]


def test_their_tokens_grant_nothing_else_here() -> None:
    made = ask({"make": 1})
    for wrong in ({"command": Command("/task/cancel")}, {"namespace": "team-b/x"}, {"priority": 3}):
        with pytest.raises(UcanError):
            validate(made, **wrong)
    with pytest.raises(UcanError, match="UnavailableProof"):
        validate({**made, "proofs": []})


def test_our_tokens_are_taken_there() -> None:
    ours = Ours(links=1, version=RELEASE)
    answer = ask(ours.question)
    assert answer["ok"], answer
    assert [p["cid"] for p in answer["proofs"]] == [str(cid_of_token(t)) for t in ours.proofs]
    assert answer["invocation"]["cid"] == str(cid_of_token(ours.invocation))


def test_the_tag_of_the_final_texts_is_not_known_there() -> None:
    """Once it is, this says so: then tell it in the docs."""
    assert not ask(Ours(links=1).question)["ok"]


def test_chains_hold_there_leaf_first_and_here_root_first() -> None:
    """Once it is alike, this says so: then tell it in the docs."""
    root_first, leaf_first = (
        Ours(links=3, version=RELEASE, leaf_first=first) for first in (False, True)
    )
    assert not ask(root_first.question)["ok"]
    assert validate(root_first.document)
    assert ask(leaf_first.question)["ok"]
    with pytest.raises(UcanError):
        validate(leaf_first.document)
    made = ask({"make": 3})
    with pytest.raises(UcanError):
        validate(made)


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": "/content"},
        {"command": "/tasksteal"},
        {"args": {"namespace": "team-b/x", "priority": 2}},
        {"args": {"namespace": "team-a/x", "priority": 4}},
    ],
)
def test_what_our_tokens_do_not_grant_is_refused_there(wrong: Any) -> None:
    ours = Ours(links=1, version=RELEASE, **wrong)
    assert not ask(ours.question)["ok"]


def test_a_forged_signature_is_refused_by_both() -> None:
    ours = Ours(links=1, version=RELEASE)
    forged = bytearray(ours.invocation)
    forged[20] ^= 1
    ours.invocation = bytes(forged)
    assert not ask(ours.question)["ok"]
    made = ask({"make": 1})
    token = bytearray(base64.b64decode(made["invocation"]["token"]))
    token[20] ^= 1
    made["invocation"]["token"] = base64.b64encode(token).decode()
    with pytest.raises(UcanError, match="InvalidSignature"):
        validate(made)
