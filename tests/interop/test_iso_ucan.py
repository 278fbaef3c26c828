"""Tokens of iso-ucan judged here, and ours judged by it. Both must come to the same CIDs."""

import base64
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.codec.ucan_mint import sign_delegation, sign_invocation
from ipfs_cluster_node.codec.ucan_validator import Validator
from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ids import Did, did_from_public_key
from ipfs_cluster_node.core.ucan.chain import Grant
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.errors import UcanError
from tests.support.ucan import signed

pytestmark = pytest.mark.tools

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "javascript" / "interop.mjs"
NODE, PACKAGES = ROOT / ".tools/node/bin/node", ROOT / ".tools/javascript"
SUBMIT = Command("/task/submit")
ARGS: dict[str, Value] = {"namespace": "team-a/x", "priority": 2}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not NODE.exists() or not (PACKAGES / ".installed").exists():
        pytest.skip("Node and iso-ucan are not there; scripts/test without arguments installs them")
    directory = tmp_path_factory.mktemp("javascript")
    # Node looks for packages beside the program.
    (directory / "node_modules").symlink_to(PACKAGES / "node_modules")
    copy = directory / PROGRAM.name
    copy.write_bytes(PROGRAM.read_bytes())
    return copy


def ask(program: Path, document: Any) -> dict[str, Any]:
    done = subprocess.run(
        [NODE, program],
        input=json.dumps(document),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def validate(made: dict[str, Any], command: Command = SUBMIT, **args: Value) -> Grant:
    """Judge as a node does: under the product profile."""
    now_s = int(time.time())
    tokens = [base64.b64decode(made["invocation"]["token"])]
    tokens += [base64.b64decode(proof["token"]) for proof in made["proofs"]]
    validator = Validator(authority=Did(made["subject"]), started_s=now_s - 3600)
    return signed(
        validator,
        write_container(tokens),
        command=command,
        args={**made["args"], **args},
        now_s=now_s,
        revocations={},
    )


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


class Ours:
    """A chain of two links and an invocation, as our clients sign them."""

    def __init__(self, version: str, *, leaf_first: bool = False, **invocation: Any) -> None:
        keys = [Ed25519PrivateKey.generate() for _ in range(3)]
        dids = [did_from_public_key(key.public_key().public_bytes_raw()) for key in keys]
        self.subject = dids[0]
        expires_s = int(time.time()) + 250
        self.proofs = [
            sign_delegation(
                keys[n],
                audience=dids[n + 1],
                subject=dids[0],
                command="/task",
                policy=[["like", ".namespace", "team-a/*"], ["<=", ".priority", 3]],
                expires_s=expires_s,
                version=version,
            )
            for n in range(2)
        ]
        fields: dict[str, Any] = {
            "command": SUBMIT,
            "args": ARGS,
            "proofs": [cid_of_token(proof) for proof in self.proofs][:: -1 if leaf_first else 1],
        }
        self.invocation = sign_invocation(
            keys[2],
            subject=dids[0],
            expires_s=expires_s,
            version=version,
            **(fields | invocation),
        )

    def judged(self, program: Path) -> dict[str, Any]:
        tokens = [base64.b64encode(token).decode() for token in (self.invocation, *self.proofs)]
        return ask(program, {"judge": {"invocation": tokens[0], "proofs": tokens[1:]}})


@pytest.mark.parametrize("version", ["1.0.0", "1.0.0-rc.1"])
def test_our_tokens_are_taken_there(program: Path, version: str) -> None:
    ours = Ours(version)
    answer = ours.judged(program)
    assert answer["ok"], answer
    assert answer["proofs"] == [str(cid_of_token(token)) for token in ours.proofs]
    assert answer["cid"] == str(cid_of_token(ours.invocation))


@pytest.mark.parametrize(
    "wrong", [{"command": "/content"}, {"args": {"namespace": "team-b/x", "priority": 2}}]
)
def test_what_our_tokens_do_not_grant_is_refused_there(program: Path, wrong: Any) -> None:
    assert not Ours("1.0.0", **wrong).judged(program)["ok"]


def test_proofs_go_from_the_root_on_there_as_well(program: Path) -> None:
    assert not Ours("1.0.0", leaf_first=True).judged(program)["ok"]


def test_a_forged_signature_is_refused_by_both(program: Path) -> None:
    ours = Ours("1.0.0")
    forged = bytearray(ours.invocation)
    forged[20] ^= 1
    ours.invocation = bytes(forged)
    assert not ours.judged(program)["ok"]
    made = ask(program, {"make": 1})
    token = bytearray(base64.b64decode(made["invocation"]["token"]))
    token[20] ^= 1
    made["invocation"]["token"] = base64.b64encode(token).decode()
    with pytest.raises(UcanError, match="InvalidSignature"):
        validate(made)


def test_a_command_that_only_begins_alike_is_taken_there_and_refused_here(program: Path) -> None:
    """Once it is refused there as well, this says so: then tell it in the docs."""
    ours = Ours("1.0.0", command="/tasksteal")
    assert ours.judged(program)["ok"]
    tokens = [{"token": base64.b64encode(token).decode()} for token in ours.proofs]
    made = {
        "subject": ours.subject,
        "args": ARGS,
        "proofs": tokens,
        "invocation": {"token": base64.b64encode(ours.invocation).decode()},
    }
    with pytest.raises(UcanError, match="InvalidCommand"):
        validate(made, command=Command("/tasksteal"))
