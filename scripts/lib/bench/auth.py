"""What it costs to decide a call by UCAN delegations, beside verifying a JWT with PyJWT.

`auth`: TLS authenticates the caller, which sends a container of delegations that are cached;
`auth-chain-N` the same with a longer chain. `auth-signed`: each call has a signed invocation of its
own, and cached delegations. Both evaluate a policy of one statement a link. The
peer verifies an EdDSA token with audience and expiry and checks one claim. Runs are interleaved;
the figures are medians of rounds, microseconds a call, in one thread.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.codec.ucan_mint import sign_delegation, sign_invocation
from ipfs_cluster_node.codec.ucan_validator import Validator
from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ids import Did, did_from_public_key
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.ucan.chain import ValidationContext
from ipfs_cluster_node.core.ucan.commands import Command
from scripts.lib.bench.common import line, note, options

ROUNDS: Final = 15
CALLS: Final = 1000
CHAINS: Final = (1, 2, 4, 8)
COMMAND: Final = Command("/task/submit")
ARGS: Final[dict[str, Value]] = {"namespace": "team-a", "priority": 3, "task_type": "render"}
NO_REVOCATIONS: Final[dict[Cid, frozenset[Did]]] = {}

Calls = Callable[[int], Sequence[Callable[[], object]]]
"""Makes so many calls, ready to be timed."""


def did_of(key: Ed25519PrivateKey) -> Did:
    """The DID of a key."""
    return did_from_public_key(key.public_key().public_bytes_raw())


class Ours:
    """A validator, and callers with chains of each length."""

    def __init__(self) -> None:
        """Sign the chains."""
        self.now_s = int(time.time())
        self.keys = [Ed25519PrivateKey.generate() for _ in range(max(CHAINS) + 1)]
        self.authority = did_of(self.keys[0])
        self.validator = Validator(authority=self.authority, started_s=self.now_s - 3600)
        self.links = [
            sign_delegation(
                giver,
                audience=did_of(taker),
                subject=self.authority,
                command="/task",
                policy=[["==", ".namespace", "team-a"]],
                expires_s=self.now_s + 86_400,
            )
            for giver, taker in pairwise(self.keys)
        ]

    def validation_context(self) -> ValidationContext:
        """Those of a call: made anew for each, as a node does."""
        return self.validator.validation_context(now_s=self.now_s, revocations=NO_REVOCATIONS)

    def peer(self, links: int) -> Calls:
        """Calls without an invocation."""
        container = write_container(self.links[:links])
        caller = did_of(self.keys[links])

        def call() -> object:
            delegations = self.validator.delegations(self.validator.read(container))
            access = self.validator.access(caller, COMMAND, delegations, self.validation_context())
            return access.check(ARGS)

        return lambda count: [call] * count

    def signed(self, count: int) -> Sequence[Callable[[], object]]:
        """Calls that are each signed by an invocation."""
        proof = self.links[0]

        def call(container: str) -> object:
            brought, context = self.validator.read(container), self.validation_context()
            return self.validator.invoked(
                brought, command=COMMAND, args_of=lambda: ARGS, context=context
            )

        def ready() -> Callable[[], object]:
            invocation = sign_invocation(
                self.keys[1],
                subject=self.authority,
                command=COMMAND,
                args=ARGS,
                proofs=[cid_of_token(proof)],
                issued_s=self.now_s,
                expires_s=self.now_s + 60,
            )
            container = write_container([invocation, proof])
            return lambda: call(container)

        return [ready() for _ in range(count)]


def pyjwt(count: int) -> Sequence[Callable[[], object]]:
    """Calls of the peer."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key()
    claims = {"aud": "cluster", "exp": int(time.time()) + 86_400, "namespace": "team-a"}
    token = jwt.encode(claims, key, algorithm="EdDSA")

    def call() -> object:
        found = jwt.decode(token, public, algorithms=["EdDSA"], audience="cluster")
        if found["namespace"] != "team-a":
            raise ValueError("another namespace")
        return found

    return [call] * count


def microseconds(calls: Sequence[Callable[[], object]]) -> float:
    """The mean time of a call."""
    began = time.perf_counter()
    for call in calls:
        call()
    return 1e6 * (time.perf_counter() - began) / len(calls)


def run(given: Any) -> None:
    """Measure all, in turns."""
    rounds, count = (5, 200) if given.quick else (ROUNDS, CALLS)
    ours = Ours()
    benches: dict[str, Calls] = {"auth": ours.peer(1), "pyjwt": pyjwt, "auth-signed": ours.signed}
    benches |= {f"auth-chain-{links}": ours.peer(links) for links in CHAINS if links > 1}
    figures: dict[str, list[float]] = {name: [] for name in benches}
    for number in range(rounds + 1):
        note(f"round {number} of {rounds}")
        for name, calls in benches.items():
            figure = microseconds(calls(count))
            if number > 0:  # The first one only warms up.
                figures[name].append(figure)
    theirs = statistics.median(figures.pop("pyjwt"))
    peer = f"PyJWT {jwt.__version__} EdDSA"
    for bench, found in figures.items():
        mine = statistics.median(found)
        line(
            given, bench=bench, peer=peer, ours=mine, theirs=theirs, unit="us", ratio=theirs / mine
        )


if __name__ == "__main__":
    run(options(__doc__ or ""))
