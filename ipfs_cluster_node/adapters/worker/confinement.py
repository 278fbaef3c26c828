"""Isolates handlers from the node's files and processes.

A handler runs as the node's user, and could read the node's keys, rename its home, write to its
files and signal it. So before it loads any handler, its process enters new user, mount, process and
IPC namespaces, in which

- every file system is read-only except the process's own scratch directory, `/dev/shm` and the
  paths in the settings: nothing else, above all the node's home, can be renamed or linked;
- the node's home and other hidden paths are empty under every name they have, except for that
  scratch directory, and the home's directory for handlers, which can be read;
- `/dev` has only harmless devices, so that no disk can be read around the file system;
- `/proc` shows only the processes of this namespace.

Then it drops the capabilities to undo any of this. From another user namespace it can't read the
node's memory either. Works without root if the kernel lets users create namespaces.

Source: user_namespaces(7), mount_namespaces(7), pid_namespaces(7), ptrace(2).
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipfs_cluster_node.adapters.worker import linux
from ipfs_cluster_node.adapters.worker.sources import Sources
from ipfs_cluster_node.core.errors import ClusterError, Reason

DEVICES: Final = ("null", "zero", "full", "random", "urandom")
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 # nosec B108 (of this namespace only)
EMPTY_OPTIONS: Final = "size=1m,nr_inodes=64,mode=755"
SHARED_MEMORY_OPTIONS: Final = "size=64m,nr_inodes=16384,mode=1777"
"""Inodes are limited too: an empty file still costs kernel memory."""
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_LOCKED_DOWN: Final = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV


@dataclass(frozen=True, slots=True)
class Place:
    """A directory or file, with its identity when the node started."""

    path: str
    device: int
    inode: int

    @classmethod
    def at(cls, path: Path) -> "Place":
        """Note the identity that the path has now."""
        found = path.resolve().stat()
        return cls(str(path.resolve()), found.st_dev, found.st_ino)

    def is_at(self, path: str) -> bool:
        """Whether a path has that identity now."""
        try:
            found = Path(path).stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self.device, self.inode)


def writable_beside(writable: Sequence[str], hidden: Sequence[Place]) -> tuple[str, ...]:
    """The directories that handlers may write to, with links resolved.

    Raises:
        ClusterError: CONFIG_INVALID; one is missing, or overlaps a hidden path: handlers could see
            that, or rename its parent directories.
    """
    found: list[str] = []
    for given in writable:
        path = Path(given).resolve()
        if not path.is_dir():
            raise _not_writable(given, "is not a directory; create it, or leave it out")
        for place in hidden:
            if path.is_relative_to(place.path) or Path(place.path).is_relative_to(path):
                raise _not_writable(
                    given, f"overlaps {place.path}, which is hidden from handlers; name others"
                )
        found.append(str(path))
    return tuple(found)


def visible_in(hidden: Sequence[Place], sources: Sources) -> tuple[str, ...]:
    """The hidden directories that handlers may read: the home's one for handlers, if it is hidden.

    Raises:
        ClusterError: CONFIG_INVALID; files of handlers lie in a hidden directory, or a hidden path
            in that for handlers.
    """
    own = sources.own_directory
    for file in sources.named:
        for place in hidden:
            if Path(file.path).is_relative_to(place.path) and Path(file.path).parent != Path(own):
                raise ClusterError(
                    Reason.CONFIG_INVALID,
                    f"{file.path} lies in {place.path}, which is hidden from handlers; move it to "
                    "another directory, or to `handlers` in the node's home",
                )
    for place in hidden:
        if own and Path(place.path).is_relative_to(own):
            raise ClusterError(
                Reason.CONFIG_INVALID,
                f"{place.path} is hidden from handlers, and lies in {own}, which they see; move it",
            )
    is_hidden = any(Path(own).is_relative_to(place.path) for place in hidden)
    return (own,) if own and is_hidden else ()


def _not_writable(given: str, why: str) -> ClusterError:
    return ClusterError(Reason.CONFIG_INVALID, f"tasks.writable_paths: {given!r} {why}")


def confine(
    hidden: Sequence[Place], scratch: str, writable: Sequence[str], visible: Sequence[str] = ()
) -> None:
    """Create the namespaces. Processes started from now on live in them, the first as their init.

    Hidden paths appear empty, except for the ways to `scratch`, which stays visible and writable,
    and to directories in `visible`. Those in `writable` stay so too, except hidden paths in them.
    The process has a single thread.

    Raises:
        OSError: It can't be done here, or a hidden path has changed.
    """
    uid, gid = os.getuid(), os.getgid()
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWIPC)
    # Files keep their owner, and this process its user.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with suppress(OSError):  # No nested namespaces, which would give the capabilities back.
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    for place in hidden:
        if not place.is_at(place.path):
            raise OSError(f"{place.path} is not what it was when the node started")
    names = sorted({name for place in hidden for name in (place.path, *_other_names(place))})
    names = [name for name in names if not any(_is_in(name, other) for other in names)]
    nothing = {name: linux.clone_mount("/dev/null") for name in names if not Path(name).is_dir()}
    names = [name for name in names if name not in nothing]
    kept = {path: linux.clone_mount(path) for path in (*writable, scratch)}
    readable = {path: linux.clone_mount(path) for path in visible}
    devices = {name: linux.clone_mount(f"/dev/{name}") for name in DEVICES}
    linux.restrict_mounts("/", linux.MOUNT_ATTR_RDONLY | _LOCKED_DOWN)
    for mount in kept.values():
        linux.restrict_clone(mount, _LOCKED_DOWN)
    for mount in readable.values():
        linux.restrict_clone(mount, linux.MOUNT_ATTR_RDONLY | _LOCKED_DOWN)
    # Hide after mounting writable paths, which may show hidden ones under another name.
    for path in writable:
        linux.attach_mount(kept[path], path)
    for name in names:
        _mount_memory(name, linux.MS_NODEV)
    for name, mount in nothing.items():
        linux.attach_mount(mount, name)
    Path(scratch).mkdir(parents=True, exist_ok=True)
    linux.attach_mount(kept[scratch], scratch)
    for path, mount in readable.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        linux.attach_mount(mount, path)
    for name in names:
        _make_read_only(name, linux.MS_NODEV)
    _replace_devices(devices)
    for descriptor in (*kept.values(), *readable.values(), *devices.values(), *nothing.values()):
        os.close(descriptor)


def enter() -> list[str]:
    """Finish in the first process of the namespaces; returns, as sentences, what could not be done.

    Mounts `/proc`, and drops all capabilities.

    Raises:
        OSError: The capabilities can't be dropped.
    """
    missing = []
    try:
        flags = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
        linux.mount("proc", "/proc", "proc", flags)
    except OSError as error:  # For example in a container that hides parts of its own /proc.
        missing.append(f"handlers see the machine's processes in /proc ({error})")
    linux.drop_capabilities()
    return missing


def _mount_memory(path: str, flags: int, options: str = EMPTY_OPTIONS) -> None:
    linux.mount("none", path, "tmpfs", linux.MS_NOSUID | flags, options)


def _make_read_only(path: str, flags: int) -> None:
    again = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID
    linux.mount("none", path, "", again | flags)


def _replace_devices(devices: dict[str, int]) -> None:
    _mount_memory("/dev", 0)
    for name, mount in devices.items():
        Path(f"/dev/{name}").touch()
        linux.attach_mount(mount, f"/dev/{name}")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        Path(f"/dev/{name}").symlink_to(f"/proc/self/fd{target}")
    Path(SHARED_MEMORY).mkdir()
    _mount_memory(SHARED_MEMORY, linux.MS_NODEV, SHARED_MEMORY_OPTIONS)
    _make_read_only("/dev", 0)


def _other_names(home: Place) -> Iterator[str]:
    """Other paths of the same directory, where its file system is mounted again."""
    lines = Path("/proc/self/mountinfo").read_bytes().removesuffix(b"\n").split(b"\n")
    mounts = [line.split(b" ") for line in lines]
    found = [(entry[2], _plain(entry[3]), _plain(entry[4])) for entry in mounts]
    own = max(
        # Of two mounts at one place the later covers the earlier.
        (each for each in reversed(found) if Path(home.path).is_relative_to(each[2])),
        key=lambda each: len(each[2]),
    )
    inside = Path(own[1]) / Path(home.path).relative_to(own[2])
    for device, root, point in found:
        if device == own[0] and inside.is_relative_to(root):
            name = str(Path(point) / inside.relative_to(root))
            if name != home.path and home.is_at(name):
                yield name


def _is_in(name: str, other: str) -> bool:
    return name != other and Path(name).is_relative_to(other)


def _plain(text: bytes) -> str:
    """A path without the escapes of mountinfo; like any file name it may be any bytes."""
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), text))
