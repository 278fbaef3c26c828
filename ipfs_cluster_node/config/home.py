"""The home directory of a node."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from ipfs_cluster_node.config.files import (
    make_private_directory,
    open_regular,
    write_private,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason

HOME_VARIABLE: Final = "IPFS_CLUSTER_NODE_HOME"
HOME_DEFAULT: Final = "~/.ipfs-cluster-node"
DAMAGED_LOG_PREFIX: Final = "raft.damaged-"
"""Followed by the time it was set aside, in UTC."""
REPLACED_LOG_PREFIX: Final = "raft.replaced-"
"""The same for an intact log, replaced by that of a cluster recovered from one master."""

REPLACED_PREFIX: Final = "replaced-"
"""The same for all files of a node in whose place another one joined."""
LEFT_BEFORE_BEGUN: Final = ("lock", ".begun.json.*.tmp", f"{REPLACED_PREFIX}*")
"""Files that a setup may leave if it was stopped before it had begun."""
OF_NO_USER: Final = ("lost+found",)
"""Entries allowed in an empty directory: those of a mount point."""


def check_unused(directory: Path, *, option: str, ours: Sequence[str] = ()) -> None:
    """Raise HOME_EXISTS unless a directory, to be closed to others, is empty or missing."""
    allowed = (*OF_NO_USER, *ours)
    names = sorted(each.name for each in directory.iterdir()) if directory.is_dir() else []
    foreign = [name for name in names if not any(fnmatchcase(name, each) for each in allowed)]
    if foreign:
        raise ClusterError(
            Reason.HOME_EXISTS,
            f"{directory} is not empty ({foreign[0]} is there), and would be closed to all but its "
            f"owner; name an empty or new directory with {option}",
        )


class Home:
    """The directory with everything a node stores."""

    def __init__(self, path: Path) -> None:
        """Name the directory; nothing is created yet."""
        self.path = path
        self.config = path / "config.toml"
        self.identity = path / "identity.key"
        self.begun = path / "begun.json"
        """Exists until setup of a node or client is complete: nothing here has been used."""
        self.tls = path / "tls"
        self.ca = self.tls / "ca.pem"
        self.seal_key = self.tls / "seal.key"
        """A master's X25519 key; the log holds the cluster's keys sealed to it."""
        self.recovery_key = self.tls / "recovery.key"
        """Left by `recover keys` for the next start, which uses and then removes it."""
        self.recovery_next = self.tls / "recovery.next"
        """The request of `recover passphrase` to the leader: the new passphrase's public key, and
        until when it may be used. Whoever removes the file decides."""
        self.authority = self.tls / "authority.sealed"
        """The cluster's sealed keys as in the log, for a start without a leader."""
        self.certificate = self.tls / "node.pem"
        self.tls_key = self.tls / "node.key"
        self.handlers = path / "handlers"
        """The operator's own task handlers: each file here is loaded."""
        self.raft = path / "raft"
        self.raft_new = path / "raft.new"
        """A log under construction that will replace the present one."""
        self.content = path / "content"
        self.state = path / "state"
        self.masters = self.state / "masters.json"
        self.replacement = self.state / "log-replacement.json"
        self.enrolment = self.state / "enrolment.json"
        self.leaving = self.state / "leaving.json"
        """The request of `leave` to the node that runs here."""
        self.leave_answer = self.state / "leave-answer.json"
        """The node's answer to it, until the command has read it."""
        self.left = self.state / "left.json"
        """Exists once this node is known to be removed from its cluster."""
        self.scratch = self.state / "scratch"
        self.audit = self.state / "audit.jsonl"

    @classmethod
    def find(cls, path: str | None) -> "Home":
        """Find the directory: as given, else from the environment, else the default one."""
        return cls(Path(path or os.environ.get(HOME_VARIABLE) or HOME_DEFAULT).expanduser())

    def damaged_logs(self) -> list[Path]:
        """The damaged logs that were set aside, oldest first."""
        return sorted(self.path.glob(f"{DAMAGED_LOG_PREFIX}*"))

    @property
    def is_taken(self) -> bool:
        """Whether a node or client has its identity here; an unfinished setup does not count."""
        return self.config.exists() or (self.identity.exists() and not self.begun.exists())

    def taken(self) -> ClusterError:
        """The error for a directory that is in use."""
        if not self.config.exists() and self.tls.exists():
            return self._without_config()
        if not self.config.exists():
            what = f"{self.path} already holds a client's identity; use its profile"
        else:
            what = (
                f"{self.path} already holds a node; start it with `serve`, unless it was "
                "removed from its cluster"
            )
        return ClusterError(Reason.HOME_EXISTS, f"{what}; or name another directory with --home")

    def check_free(self) -> None:
        """Check that a setup may begin here; raises HOME_EXISTS, HOME_DAMAGED."""
        if self.is_taken:
            raise self.taken()
        if not self.begun.exists():
            check_unused(self.path, option="--home", ours=LEFT_BEFORE_BEGUN)

    def _without_config(self) -> ClusterError:
        return ClusterError(
            Reason.HOME_DAMAGED,
            f"{self.config} is missing, and {self.path} holds a node's keys: restore that file, or "
            "name another directory with --home",
        )

    @contextmanager
    def making(self, what: bytes = b"{}") -> Iterator[None]:
        """Set up a node or client here; `begun` exists until the block has succeeded.

        Removes what an earlier attempt left: it was never used.

        Raises:
            ClusterError: HOME_EXISTS, if the directory is not free; HOME_IN_USE.
        """
        self.check_free()
        make_private_directory(self.path)
        with self.lock():
            if self.is_taken:
                raise self.taken()
            if self.begun.exists():
                for directory in (self.tls, self.raft, self.state):
                    shutil.rmtree(directory, ignore_errors=True)
            write_private(self.begun, what)
            yield
            self.begun.unlink()

    def create(self) -> None:
        """Create the directories of a node."""
        for directory in (
            self.path,
            self.tls,
            self.raft,
            self.content,
            self.state,
            self.handlers,
        ):
            make_private_directory(directory)
        self.path.chmod(0o700)

    def check(self) -> None:
        """Check that there is a node; raises HOME_MISSING, or HOME_DAMAGED where a part is."""
        if self.config.is_file() and self.identity.is_file():
            # Setup was complete, and may have been stopped right before this.
            self.begun.unlink(missing_ok=True)
            return
        if self.config.is_file():
            raise ClusterError(
                Reason.HOME_DAMAGED,
                f"{self.identity} is missing; restore it, or join with a new identity in another "
                "--home",
            )
        if self.is_taken and self.tls.exists():
            raise self._without_config()
        if self.begun.exists():
            how = "an `init` or `join` there did not finish; run it again"
        elif self.identity.exists():
            how = "it holds a client's identity; join a node in another --home"
        else:
            how = "make one with `init` or `join`"
        raise ClusterError(Reason.HOME_MISSING, f"there is no node in {self.path}; {how}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock this directory for this process; raises HOME_IN_USE, naming the other one."""
        descriptor = open_regular(self.path / "lock", os.O_RDWR | os.O_CREAT)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise ClusterError(
                    Reason.HOME_IN_USE,
                    f"process {holder} is already using {self.path}; stop it, or name another "
                    "directory with --home",
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)
