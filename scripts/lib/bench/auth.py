"""Deciding one call by UCAN, beside checking one JSON Web Token.

`auth` is the way of nearly every call (mode B): TLS has named the caller, its delegations were
verified before, and the chain, its times, its revocations and its policies are judged on the call's
arguments. `auth-signed` (mode A) verifies the signature of an invocation as well. PyJWT verifies an
EdDSA signature, expiry, audience and one claim. All in one process and thread, in turns; the
figures are medians of rounds, a ratio of 2 means half the time.
"""

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.codec.ucan_mint import sign_delegation, sign_invocation
from ipfs_cluster_node.codec.ucan_validator import Validator
from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ids import Did, did_from_public_key
from ipfs_cluster_node.core.ucan.commands import Command
from scripts.lib.bench.common import line, note, options

ROUNDS: Final = 15
CALLS: Final = 400
SUBMIT: Final = Command("/task/submit")
ARGS: Final[dict[str, Value]] = {
    "namespace": "team-a/nightly",
    "task_type": "echo",
    "priority": 1,
    "max_runtime_s": 600,
    "max_retries": 2,
    "count": 1,
}
POLICY: Final[list[Value]] = [["like", ".namespace", "team-a/*"], ["<=", ".priority", 3]]
HOUR_S: Final = 3600

Timed = Callable[[int], object]
"""Does one check, of the call of this number."""


def did_of(key: Ed25519PrivateKey) -> Did:
    """A key's DID."""
    return did_from_public_key(key.public_key().public_bytes_raw())


class Chain:
    """A chain from a cluster to a caller."""

    def __init__(self, links: int) -> None:
        """Sign it."""
        self.keys = [Ed25519PrivateKey.generate() for _ in range(links + 1)]
        self.cluster, self.caller = did_of(self.keys[0]), did_of(self.keys[-1])
        self.now_s = int(time.time())
        self.tokens = [
            sign_delegation(
                self.keys[link],
                audience=did_of(self.keys[link + 1]),
                subject=self.cluster,
                command="/task",
                policy=POLICY,
                expires_s=self.now_s + HOUR_S,
            )
            for link in range(links)
        ]
        self.validator = Validator(authority=self.cluster, started_s=self.now_s - HOUR_S)

    def peer_call(self) -> Timed:
        """Mode B with a container, as a client sends it; its delegations verified before."""
        container = write_container(self.tokens)

        def check(_number: int) -> object:
            return self.validator.peer_call(
                container,
                caller=self.caller,
                command=SUBMIT,
                args=ARGS,
                now_s=self.now_s,
                revocations={},
            )

        return check

    def signed_calls(self, count: int) -> Timed:
        """Mode A: so many invocations, each used once."""
        proofs = [cid_of_token(token) for token in self.tokens]
        containers = [
            write_container(
                [
                    sign_invocation(
                        self.keys[-1],
                        subject=self.cluster,
                        command=SUBMIT,
                        args=ARGS,
                        proofs=proofs,
                        expires_s=self.now_s + 200,
                        issued_s=self.now_s,
                    ),
                    *self.tokens,
                ]
            )
            for _ in range(count)
        ]

        def check(number: int) -> object:
            return self.validator.signed_call(
                containers[number],
                command=SUBMIT,
                args=ARGS,
                now_s=self.now_s,
                revocations={},
            )

        return check


def token_check() -> Timed:
    """PyJWT, with one claim."""
    key = Ed25519PrivateKey.generate()
    claims = {"exp": int(time.time()) + HOUR_S, "aud": "cluster", "scope": "task/submit"}
    text = jwt.encode(claims, key, algorithm="EdDSA")
    public = key.public_key()

    def check(_number: int) -> object:
        read = jwt.decode(text, public, algorithms=["EdDSA"], audience="cluster")
        if read["scope"] != "task/submit":
            raise ValueError("another scope")
        return read

    return check


def microseconds(check: Timed, first: int, count: int) -> float:
    """A round's time for one check."""
    began = time.perf_counter()
    for number in range(first, first + count):
        check(number)
    return 1e6 * (time.perf_counter() - began) / count


def run(given: Any) -> None:
    """Measure all, in turns."""
    rounds, calls = (3, 50) if given.quick else (ROUNDS, CALLS)
    note("signing")
    checks: dict[str, Timed] = {
        "auth": Chain(1).peer_call(),
        "auth-chain-2": Chain(2).peer_call(),
        "auth-chain-4": Chain(4).peer_call(),
        "auth-chain-8": Chain(8).peer_call(),
        "auth-signed": Chain(1).signed_calls((rounds + 1) * calls),
        "pyjwt": token_check(),
    }
    found: dict[str, list[float]] = {name: [] for name in checks}
    for number in range(rounds + 1):
        for name, check in checks.items():
            took = microseconds(check, number * calls, calls)
            if number:  # The first round verifies the delegations.
                found[name].append(took)
    theirs = statistics.median(found.pop("pyjwt"))
    for name, times in found.items():
        mine = statistics.median(times)
        peer = f"PyJWT {version('pyjwt')}"
        line(given, bench=name, peer=peer, ours=mine, theirs=theirs, unit="us", ratio=theirs / mine)


if __name__ == "__main__":
    run(options(__doc__ or ""))
