"""The home directory of a node."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from ipfs_cluster_node.config.files import make_private_directory, open_regular, write_private
from ipfs_cluster_node.core.errors import ClusterError, Reason

HOME_VARIABLE: Final = "IPFS_CLUSTER_NODE_HOME"
HOME_DEFAULT: Final = "~/.ipfs-cluster-node"
DAMAGED_LOG_PREFIX: Final = "raft.damaged-"
"""Followed by when it was set aside, in UTC."""
REPLACED_LOG_PREFIX: Final = "raft.replaced-"
"""The same, of a whole log for which one took over that goes on alone."""


LEFT_BEFORE_BEGUN: Final = ("lock", ".begun.json.*.tmp")
"""What may be left where a node was to be made, and it was stopped before it was begun."""
OF_NO_USER: Final = ("lost+found",)
"""What an empty directory may have all the same: where a disk is mounted."""


def check_unused(directory: Path, *, option: str, ours: Sequence[str] = ()) -> None:
    """Check that nothing is in a directory, or that it is not there: it will be closed to others.

    Raises:
        ClusterError: HOME_EXISTS; nothing was changed.
    """
    allowed = (*OF_NO_USER, *ours)
    names = sorted(each.name for each in directory.iterdir()) if directory.is_dir() else []
    foreign = [name for name in names if not any(fnmatchcase(name, each) for each in allowed)]
    if foreign:
        raise ClusterError(
            Reason.HOME_EXISTS,
            f"{directory} is not empty ({foreign[0]} is there), and would be closed to all but its "
            f"owner; name an empty or a new directory with {option}",
        )


class Home:
    """Where a node keeps everything it has."""

    def __init__(self, path: Path) -> None:
        """Name the directory; nothing is made yet."""
        self.path = path
        self.config = path / "config.toml"
        self.identity = path / "identity.key"
        self.begun = path / "begun.json"
        """There until a node, or a client, is made as a whole: what is here was never used."""
        self.tls = path / "tls"
        self.ca = self.tls / "ca.pem"
        self.seal_key = self.tls / "seal.key"
        """A master's X25519 key, to which the log keeps the cluster's keys sealed."""
        self.recovery_key = self.tls / "recovery.key"
        """What `recover keys` leaves for the next start, which removes it once it has used it."""
        self.recovery_next = self.tls / "recovery.next"
        """Which passphrase's public key takes the present one's place, and until when it may: what
        `recover passphrase` asks of the master that leads. Whoever removes it decides."""
        self.authority = self.tls / "authority.sealed"
        """The cluster's sealed keys as the log has them, for a start without a leader."""
        self.certificate = self.tls / "node.pem"
        self.tls_key = self.tls / "node.key"
        self.raft = path / "raft"
        self.raft_new = path / "raft.new"
        """A log that is being made, to take the place of the present one."""
        self.content = path / "content"
        self.state = path / "state"
        self.masters = self.state / "masters.json"
        self.replacement = self.state / "log-replacement.json"
        self.enrolment = self.state / "enrolment.json"
        self.scratch = self.state / "scratch"
        self.audit = self.state / "audit.jsonl"

    @classmethod
    def find(cls, path: str | None) -> "Home":
        """Find the directory: as given, else from the environment, else the default."""
        return cls(Path(path or os.environ.get(HOME_VARIABLE) or HOME_DEFAULT).expanduser())

    def damaged_logs(self) -> list[Path]:
        """Damaged logs that were set aside, the oldest first."""
        return sorted(self.path.glob(f"{DAMAGED_LOG_PREFIX}*"))

    @property
    def is_taken(self) -> bool:
        """Whether a node or a client has its identity here; what was only begun takes no place."""
        return self.config.exists() or (self.identity.exists() and not self.begun.exists())

    def taken(self) -> ClusterError:
        """Why nothing can be made here."""
        if not self.config.exists() and self.tls.exists():
            return self._without_config()
        if not self.config.exists():
            what = f"there is a client's identity in {self.path} already; use its profile"
        else:
            what = (
                f"there is a node in {self.path} already; start it with `serve`, unless it was "
                "removed from its cluster"
            )
        return ClusterError(Reason.HOME_EXISTS, f"{what}; or name another directory with --home")

    def check_free(self) -> None:
        """Check that a node or a client can be made here.

        Raises:
            ClusterError: HOME_EXISTS, HOME_DAMAGED; nothing was changed.
        """
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
        """Make a node or a client here: `begun` says so until the block has ended well.

        What an earlier attempt left is removed: it was never used.

        Raises:
            ClusterError: HOME_EXISTS, if there is one already, or something else; HOME_IN_USE.
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
        """Make the directories of a node."""
        for directory in (self.path, self.tls, self.raft, self.content, self.state):
            make_private_directory(directory)
        self.path.chmod(0o700)

    def check(self) -> None:
        """Check that there is a node.

        Raises:
            ClusterError: HOME_MISSING; HOME_DAMAGED, if a part of it is.
        """
        if self.config.is_file() and self.identity.is_file():
            self.begun.unlink(missing_ok=True)  # Its making ended just before it was stopped.
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
            how = "an `init` or `join` was begun there, and has not ended; run it again"
        elif self.identity.exists():
            how = "a client's identity is there; join a node in another --home"
        else:
            how = "make one with `init` or `join`"
        raise ClusterError(Reason.HOME_MISSING, f"there is no node in {self.path}; {how}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process from working on this directory.

        Raises:
            ClusterError: HOME_IN_USE, naming the process.
        """
        descriptor = open_regular(self.path / "lock", os.O_RDWR | os.O_CREAT)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise ClusterError(
                    Reason.HOME_IN_USE,
                    f"process {holder} works on {self.path} already; stop it, or name another "
                    "directory with --home",
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)
