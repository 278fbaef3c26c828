"""Tokens of iso-ucan judged here, and ours judged by it. Both must come to the same CIDs."""

import base64
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.errors import UcanError
from tests.support.interop import Ours, ask_program, validate

pytestmark = pytest.mark.tools

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / ".tools/javascript/interop.mjs"
NODE = ROOT / ".tools/node/bin/node"
SUBMIT = Command("/task/submit")
ARGS: dict[str, Value] = {"namespace": "team-a/x", "priority": 2}


@pytest.fixture(scope="module")
def program() -> Path:
    if not NODE.exists() or not PROGRAM.exists():
        pytest.skip("Node and iso-ucan are not there; scripts/test without arguments installs them")
    return PROGRAM


def ask(program: Path, document: Any) -> dict[str, Any]:
    return ask_program([str(NODE), str(program)], document)


@pytest.mark.parametrize("links", [1, 3])
def test_their_tokens_are_taken_here_under_the_same_cids(program: Path, links: int) -> None:
    made = ask(program, {"make": links})
    grant = validate(made)
    assert [str(delegation.cid) for delegation in grant.chain] == [p["cid"] for p in made["proofs"]]
    assert grant.claim.issuer == made["issuer"]
    invocation = base64.b64decode(made["invocation"]["token"])
    assert str(cid_of_token(invocation)) == made["invocation"]["cid"]


def test_their_tokens_grant_nothing_else_here(program: Path) -> None:
    made = ask(program, {"make": 2})
    for wrong in ({"command": Command("/task/cancel")}, {"namespace": "team-b/x"}, {"priority": 3}):
        with pytest.raises(UcanError):
            validate(made, **wrong)
    with pytest.raises(UcanError, match="UnavailableProof"):
        validate({**made, "proofs": made["proofs"][:1]})


@pytest.mark.parametrize("version", ["1.0.0", "1.0.0-rc.1"])
def test_our_tokens_are_taken_there(program: Path, version: str) -> None:
    ours = Ours(version=version)
    answer = ask(program, ours.question)
    assert answer["ok"], answer
    assert answer["proofs"] == [str(cid_of_token(token)) for token in ours.proofs]
    assert answer["cid"] == str(cid_of_token(ours.invocation))


@pytest.mark.parametrize(
    "wrong", [{"command": "/content"}, {"args": {"namespace": "team-b/x", "priority": 2}}]
)
def test_what_our_tokens_do_not_grant_is_refused_there(program: Path, wrong: Any) -> None:
    assert not ask(program, Ours(**wrong).question)["ok"]


def test_proofs_go_from_the_root_on_there_as_well(program: Path) -> None:
    assert not ask(program, Ours(leaf_first=True).question)["ok"]


def test_a_forged_signature_is_refused_by_both(program: Path) -> None:
    ours = Ours()
    forged = bytearray(ours.invocation)
    forged[20] ^= 1
    ours.invocation = bytes(forged)
    assert not ask(program, ours.question)["ok"]
    made = ask(program, {"make": 1})
    token = bytearray(base64.b64decode(made["invocation"]["token"]))
    token[20] ^= 1
    made["invocation"]["token"] = base64.b64encode(token).decode()
    with pytest.raises(UcanError, match="InvalidSignature"):
        validate(made)


def test_a_command_that_only_begins_alike_is_taken_there_and_refused_here(program: Path) -> None:
    """Once it is refused there as well, this says so: then tell it in the docs."""
    ours = Ours(command="/tasksteal")
    assert ask(program, ours.question)["ok"]
    with pytest.raises(UcanError, match="InvalidCommand"):
        validate(ours.document, command=Command("/tasksteal"))
