"""Feeds hostile bytes to all that reads tokens, with two other DAG-CBOR libraries as oracles.

Whatever comes must be refused with the one error that the function promises, or read; what is
read encodes to the same bytes. `scripts/lib/fuzz/run` makes the environment and runs this.
"""

import contextlib
import re
import sys
from collections.abc import Callable
from typing import Final

import atheris

with atheris.instrument_imports(include=["ipfs_cluster_node"]):
    from ipfs_cluster_node.codec.ucan import TokenReader, open_envelope
    from ipfs_cluster_node.codec.ucan_container import read_container, write_container
    from ipfs_cluster_node.core.dag_cbor import DEPTH_MAX, DagCborError, Value, decode, encode
    from ipfs_cluster_node.core.ucan.commands import parse_command
    from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
    from ipfs_cluster_node.core.ucan.globs import Glob
    from ipfs_cluster_node.core.ucan.policies import Evaluation, parse_policy
    from ipfs_cluster_node.core.ucan.profiles import PRODUCT, SPECIFICATION
    from ipfs_cluster_node.core.ucan.selectors import UnresolvedError, parse_selector, select

import cbrrr
import dag_cbor

BYTES_MAX: Final = 4096
ARGS: Final[dict[str, Value]] = {"a": [1, "b", {"c": None}], "namespace": "team-a", "n": 3}


def fuzz_dag_cbor(data: bytes) -> None:
    """Canonical for one is canonical for all."""
    try:
        value = decode(data, bytes_max=BYTES_MAX, depth_max=DEPTH_MAX)
    except DagCborError as error:
        if "deep" in str(error) or len(data) > BYTES_MAX:
            return
        try:
            theirs = dag_cbor.decode(data)
        except Exception:  # Refused, as wanted, in whatever way.
            return
        raise AssertionError(f"only the oracle takes this, as {theirs!r}: {error}") from None
    if encode(value) != data:
        raise AssertionError("read, yet not canonical")
    if cbrrr.encode_dag_cbor(cbrrr.decode_dag_cbor(data)) != data:
        raise AssertionError("the oracle does not read this back")


def fuzz_token(data: bytes) -> None:
    """A token is refused or read in both profiles; no random bytes are signed."""
    for profile in (PRODUCT, SPECIFICATION):
        reader = TokenReader(profile)
        try:
            envelope = open_envelope(data, profile=profile)
        except UcanError:
            continue
        for read in (reader.delegation, reader.invocation):
            try:
                read(envelope)
            except UcanError as error:
                if error.name not in Refusal:
                    raise


def fuzz_payload(data: bytes) -> None:
    """A payload behind a right envelope, so that its parser is reached."""
    try:
        payload = decode(data, bytes_max=BYTES_MAX, depth_max=14)
    except DagCborError:
        return
    for tag in ("ucan/dlg@1.0.0", "ucan/inv@1.0.0"):
        header = bytes.fromhex("3401ed01ed011371")
        fuzz_token(encode([bytes(64), {"h": header, tag: payload}]))


def fuzz_container(data: bytes) -> None:
    """A container that is read has one text."""
    text = "C" + data.decode("latin-1")
    try:
        tokens = read_container(text, profile=PRODUCT)
    except UcanError:
        return
    if write_container(tokens) != text:
        raise AssertionError("a container of two texts")


def fuzz_policy(data: bytes) -> None:
    """A policy is refused, or has an answer."""
    try:
        value = decode(data, bytes_max=BYTES_MAX, depth_max=16)
        policy = parse_policy(value, profile=PRODUCT)
        Evaluation(steps_max=1000).failing(policy, ARGS)
    except (DagCborError, UcanError):
        return


def fuzz_text(data: bytes) -> None:
    """Selectors, commands and patterns; patterns as a regular expression has them."""
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(UcanError, UnresolvedError):
        select(parse_selector(text, chars_max=256), ARGS)
    with contextlib.suppress(UcanError):
        parse_command(text, chars_max=256)
    pattern, _, subject = text.partition("\0")
    if pattern.count("*") > 4 or len(text) > 60:  # The regular expression would take for ever.
        return
    pieces = [re.escape(piece) for piece in Glob.parse(pattern).pieces]
    wanted = re.fullmatch(".*".join(pieces), subject, re.DOTALL) is not None
    if Glob.parse(pattern).matches(subject) != wanted:
        raise AssertionError("a pattern matches otherwise than its expression")


TARGETS: Final[tuple[Callable[[bytes], None], ...]] = (
    fuzz_dag_cbor,
    fuzz_token,
    fuzz_payload,
    fuzz_container,
    fuzz_policy,
    fuzz_text,
)


def test_one_input(data: bytes) -> None:
    """The first byte says which."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
