"""Chains and invocations that other implementations and ours judge of each other."""

import base64
import json
import subprocess
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.codec.ucan_mint import sign_delegation, sign_invocation
from ipfs_cluster_node.codec.ucan_validator import Validator
from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ids import Did, did_from_public_key
from ipfs_cluster_node.core.ucan.chain import ProvenClaim
from ipfs_cluster_node.core.ucan.commands import Command
from tests.support.ucan import signed

SUBMIT: Final = Command("/task/submit")
ARGS: Final[dict[str, Value]] = {"namespace": "team-a/x", "priority": 2}


def ask_program(program: Sequence[str], document: Any) -> dict[str, Any]:
    """Give one JSON document to a program, and read the one that it answers."""
    done = subprocess.run(
        program,
        input=json.dumps(document),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def validate(made: dict[str, Any], command: Command = SUBMIT, **args: Value) -> ProvenClaim:
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


class Ours:
    """A chain and an invocation, as our clients sign them."""

    def __init__(
        self,
        *,
        links: int = 2,
        version: str = "1.0.0",
        leaf_first: bool = False,
        **invocation: Any,
    ) -> None:
        keys = [Ed25519PrivateKey.generate() for _ in range(links + 1)]
        dids = [did_from_public_key(key.public_key().public_bytes_raw()) for key in keys]
        self.subject = dids[0]
        expires_s = int(time.time()) + 250
        self.proofs = [
            sign_delegation(
                key,
                audience=audience,
                subject=dids[0],
                command="/task",
                policy=[["like", ".namespace", "team-a/*"], ["<=", ".priority", 3]],
                expires_s=expires_s,
                version=version,
            )
            for key, (_, audience) in zip(keys, pairwise(dids), strict=False)
        ]
        fields: dict[str, Any] = {
            "command": SUBMIT,
            "args": ARGS,
            "proofs": [cid_of_token(proof) for proof in self.proofs][:: -1 if leaf_first else 1],
        }
        self.invocation = sign_invocation(
            keys[-1],
            subject=dids[0],
            expires_s=expires_s,
            version=version,
            **(fields | invocation),
        )

    @property
    def question(self) -> dict[str, Any]:
        """What another implementation is asked about them."""
        tokens = [base64.b64encode(token).decode() for token in (self.invocation, *self.proofs)]
        return {"judge": {"invocation": tokens[0], "proofs": tokens[1:]}}

    @property
    def document(self) -> dict[str, Any]:
        """The same as another implementation would answer that it made."""
        judge = self.question["judge"]
        return {
            "subject": self.subject,
            "args": ARGS,
            "proofs": [{"token": token} for token in judge["proofs"]],
            "invocation": {"token": judge["invocation"]},
        }
