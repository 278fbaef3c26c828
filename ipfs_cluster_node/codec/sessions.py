"""How both sides of a worker's session introduce themselves."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node import __version__
from ipfs_cluster_node.codec.tasks import attempt_to_proto
from ipfs_cluster_node.core.errors import invalid_field
from ipfs_cluster_node.core.model import AttemptId
from ipfs_cluster_node.core.session_protocol import (
    PROTOCOL_VERSIONS,
    agreed_version,
    check_version,
)
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb

SDK_NAME: Final = "ipfs_cluster_node"
SDK_CHARS_MAX: Final = 64
VERSIONS_MAX: Final = 16
FEATURES_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Introduction:
    """What the other side of a session said of itself."""

    protocol_version: int
    """The one that holds for the session."""
    sdk: str
    """Name and version of its SDK, for logs; empty if it said none."""


def own_sdk() -> pb.Sdk:
    """What this side is made with."""
    return pb.Sdk(name=SDK_NAME, version=__version__)


def hello_to_proto(attempts: Iterable[AttemptId], boot: int) -> pb.WorkerHello:
    """A worker's first message: the attempts that it has, and the boot of its process."""
    return pb.WorkerHello(
        attempts=map(attempt_to_proto, attempts),
        boot=boot,
        protocol_versions=sorted(PROTOCOL_VERSIONS),
        sdk=own_sdk(),
    )


def hello_from_proto(hello: pb.WorkerHello) -> Introduction:
    """Who the worker is, and the version that holds.

    Raises:
        ClusterError: PROTOCOL_UNSUPPORTED; INVALID_ARGUMENT.
    """
    if len(hello.protocol_versions) > VERSIONS_MAX:
        raise invalid_field("hello.protocol_versions", f"at most {VERSIONS_MAX}")
    if len(hello.features) > FEATURES_MAX:
        raise invalid_field("hello.features", f"at most {FEATURES_MAX}")
    sdk = hello.sdk
    for text, field in ((sdk.name, "name"), (sdk.version, "version")):
        if len(text) > SDK_CHARS_MAX or not text.isprintable():
            raise invalid_field(
                f"hello.sdk.{field}", f"at most {SDK_CHARS_MAX} printable characters"
            )
    return Introduction(
        agreed_version(hello.protocol_versions), f"{sdk.name} {sdk.version}".strip()
    )


def welcome_to_proto(said: Introduction) -> pb.WorkerWelcome:
    """A leader's first message, as yet without stale attempts."""
    return pb.WorkerWelcome(protocol_version=said.protocol_version, sdk=own_sdk())


def check_welcome(welcome: pb.WorkerWelcome) -> None:
    """Refuse a leader that chose a version which was not offered.

    Raises:
        ClusterError: PROTOCOL_UNSUPPORTED.
    """
    check_version(welcome.protocol_version)
