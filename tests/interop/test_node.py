"""Tokens to and from npm's `iso-ucan`, run live: each side judges what the other signed.

Keys are throw-away. What `iso-ucan` takes and we do not is here too: see docs/security-testing.md.
"""

import base64
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.codec.ucan import VERSION, VERSION_RC1, cid_of_token
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.chain import Grant
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.profiles import SPECIFICATION
from tests.support.ucan import Actor, actor, validator

pytestmark = pytest.mark.tools

SOURCES = Path(__file__).parent / "node"
INSTALLED = Path(__file__).parents[2] / ".tools" / "node"
SECONDS_MAX = 60
ARGS = {"namespace": "team-a", "priority": 3}
COMMAND = "/task/submit"
POLICY = [["==", ".namespace", "team-a"], ["<=", ".priority", 5]]


class Peer:
    """The Node process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, operation: str, **fields: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"operation": operation, **fields}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def delegate(self, giver: Actor, taker: Actor, command: str, **fields: Any) -> bytes:
        """A delegation by `iso-ucan`; the CID it prints is ours."""
        default = {"sub": ROOT.did, "pol": POLICY, "exp": int(time.time()) + 600}
        answer = self.ask(
            "delegate", key=seed(giver), aud=taker.did, cmd=command, **(default | fields)
        )
        token = base64.b64decode(answer["token"])
        assert str(cid_of_token(token)) == answer["cid"]
        return token

    def chain(self, *actors: Actor) -> list[bytes]:
        """Delegations by `iso-ucan` from each to the next, root first."""
        return [self.delegate(giver, taker, "/task") for giver, taker in pairwise(actors)]

    def invoke(self, who: Actor, proofs: list[bytes], **fields: Any) -> bytes:
        """An invocation by `iso-ucan`'s envelopes, without its own check of the chain."""
        default = {
            "sub": ROOT.did,
            "cmd": COMMAND,
            "args": ARGS,
            "exp": int(time.time()) + 60,
            "iat": int(time.time()),
            "proofs": [text(proof) for proof in proofs],
        }
        return base64.b64decode(self.ask("invoke", key=seed(who), **(default | fields))["token"])

    def check(self, token: bytes, proofs: list[bytes]) -> dict[str, Any]:
        """Have `iso-ucan` judge an invocation."""
        listed = [text(proof) for proof in proofs]
        return self.ask("check", token=text(token), proofs=listed, audience=ROOT.did)


ROOT, *OTHERS = [actor(900 + number) for number in range(4)]


def seed(who: Actor) -> str:
    return text(who.key.private_bytes_raw())


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def install() -> str:
    """Have Node and the libraries; returns Node's path."""
    if shutil.which("npm") is None and shutil.which("apt-get") and os.geteuid() == 0:
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "nodejs", "npm"],
        ):
            subprocess.run(command, capture_output=True, timeout=80, check=False)
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node is not installed; on Debian: apt-get install nodejs npm")
    lock = (SOURCES / "package-lock.json").read_bytes()
    stamp = INSTALLED / "installed-lock.json"
    if not stamp.exists() or stamp.read_bytes() != lock:
        INSTALLED.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCES / name, INSTALLED)
        options = ["--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(
            [npm, "ci", *options], cwd=INSTALLED, capture_output=True, timeout=100, check=False
        )
        if done.returncode != 0:
            pytest.skip("npm could not install iso-ucan; it needs the network once")
        stamp.write_bytes(lock)
    return node


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    node = install()
    shutil.copy(SOURCES / "peer.js", INSTALLED / "peer.mjs")
    with subprocess.Popen(
        [node, str(INSTALLED / "peer.mjs")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        limit = threading.Timer(SECONDS_MAX, process.kill)
        limit.start()
        yield Peer(process)
        limit.cancel()
        process.kill()


def ours(invocation: bytes, *proofs: bytes, **fields: Any) -> Grant:
    """Our verdict, by the specification."""
    asked: dict[str, Any] = {"command": Command(COMMAND), "args": ARGS}
    return validator(SPECIFICATION, ROOT).signed_call(
        write_container([invocation, *proofs]),
        now_s=int(time.time()),
        revocations={},
        **(asked | fields),
    )


def refusal(invocation: bytes, *proofs: bytes, **fields: Any) -> str:
    with pytest.raises(UcanError) as caught:
        ours(invocation, *proofs, **fields)
    return str(caught.value.name)


def test_both_spell_a_key_alike(peer: Peer) -> None:
    for who in (ROOT, *OTHERS):
        assert peer.ask("did", key=seed(who)) == {"did": who.did}


@pytest.mark.parametrize("links", [1, 3])
def test_what_node_signs_is_granted(peer: Peer, links: int) -> None:
    actors = [ROOT, *OTHERS[:links]]
    proofs = peer.chain(*actors)
    answer = peer.ask(
        "create",
        key=seed(actors[-1]),
        sub=ROOT.did,
        cmd=COMMAND,
        args=ARGS,
        proofs=[text(proof) for proof in proofs],
        exp=int(time.time()) + 60,
        iat=int(time.time()),
    )
    invocation = base64.b64decode(answer["token"])
    assert str(cid_of_token(invocation)) == answer["cid"]
    assert len(ours(invocation, *proofs).chain) == links


def test_a_violated_policy_is_refused_by_both(peer: Peer) -> None:
    args = ARGS | {"priority": 6}
    proofs = peer.chain(ROOT, OTHERS[0])
    invocation = peer.invoke(OTHERS[0], proofs, args=args)
    assert refusal(invocation, *proofs, args=args) == "MatchError"
    assert "policy" in peer.check(invocation, proofs)["error"]


def test_a_command_that_was_not_delegated_is_refused_by_both(peer: Peer) -> None:
    proofs = peer.chain(ROOT, OTHERS[0])
    invocation = peer.invoke(OTHERS[0], proofs, cmd="/content/add")
    assert refusal(invocation, *proofs, command=Command("/content/add")) == "InvalidCommand"
    assert "command" in peer.check(invocation, proofs)["error"]


def test_the_leaf_first_is_refused_by_both(peer: Peer) -> None:
    proofs = peer.chain(ROOT, *OTHERS)[::-1]
    invocation = peer.invoke(OTHERS[-1], proofs)
    assert refusal(invocation, *proofs) == "InvalidAudience"
    assert "root proof" in peer.check(invocation, proofs)["error"]


def test_a_forged_link_is_refused_by_both(peer: Peer) -> None:
    [proof] = peer.chain(ROOT, OTHERS[0])
    invocation = peer.invoke(OTHERS[0], [proof])
    forged = bytearray(invocation)
    forged[10] ^= 1
    assert refusal(bytes(forged), proof) == "InvalidSignature"
    assert "signature" in peer.check(bytes(forged), [proof])["error"]


def test_a_command_that_only_begins_alike_is_taken_by_node_and_refused_here(peer: Peer) -> None:
    proofs = peer.chain(ROOT, OTHERS[0])
    invocation = peer.invoke(OTHERS[0], proofs, cmd="/tasksteal")
    assert "cid" in peer.check(invocation, proofs), "iso-ucan was mended: say so in the docs"
    assert refusal(invocation, *proofs, command=Command("/tasksteal")) == "InvalidCommand"


@pytest.mark.parametrize("version", [VERSION, VERSION_RC1])
@pytest.mark.parametrize("links", [1, 3])
def test_what_we_sign_is_taken_by_node(peer: Peer, version: str, links: int) -> None:
    actors, now = [ROOT, *OTHERS[:links]], int(time.time())
    proofs = [
        giver.delegates(
            taker, subject=Did(ROOT.did), policy=POLICY, expires_s=now + 600, version=version
        )
        for giver, taker in pairwise(actors)
    ]
    fields: dict[str, Any] = {"subject": ROOT.did, "args": ARGS, "version": version}
    invocation = actors[-1].invokes(
        *proofs, command=COMMAND, issued_s=now, expires_s=now + 60, **fields
    )
    assert peer.check(invocation, proofs) == {
        "cid": str(cid_of_token(invocation)),
        "cids": [str(cid_of_token(proof)) for proof in proofs],
    }
    assert len(ours(invocation, *proofs).chain) == links
