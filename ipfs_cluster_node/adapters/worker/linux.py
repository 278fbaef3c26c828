"""Linux system calls that Python lacks.

Call numbers from 424 on are the same on every architecture with a CPython.

Source: mount_setattr(2), open_tree(2), move_mount(2), prctl(2), capabilities(7).
"""

import ctypes
import os
import signal
import sys
from typing import Any, Final

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWPID: Final = 0x2000_0000
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x4_0000
MOUNT_ATTR_RDONLY: Final = 1
MOUNT_ATTR_NOSUID: Final = 2
MOUNT_ATTR_NODEV: Final = 4
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38

_SYS_IOPRIO_GET: Final = {"x86_64": 252, "aarch64": 31}
_IOPRIO_WHO_PROCESS: Final = 1
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_MOUNT_SETATTR: Final = 442
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_CAPABILITY_VERSION_3: Final = 0x2008_0522
_CAPABILITIES_MAX: Final = 64

_libc: Any = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Enter new namespaces."""
    if not hasattr(_libc, "unshare"):
        raise OSError("this system has no namespaces")
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount a file system."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(result, f"mount {kind or source}")


def clone_mount(path: str) -> int:
    """Get a descriptor of a detached mount of `path`."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    return _syscall("open_tree", _SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)


def attach_mount(descriptor: int, path: str) -> None:
    """Attach a mount from `clone_mount`."""
    where = (descriptor, b"", _AT_FDCWD, os.fsencode(path))
    _syscall("move_mount", _SYS_MOVE_MOUNT, *where, _MOVE_MOUNT_F_EMPTY_PATH)


def restrict_mounts(path: str, attributes: int) -> None:
    """Set attributes of the mount at `path` and all mounts below it."""
    _set_attributes(_AT_FDCWD, os.fsencode(path), _AT_RECURSIVE, attributes)


def restrict_clone(descriptor: int, attributes: int) -> None:
    """Set attributes of a detached mount."""
    _set_attributes(descriptor, b"", _AT_EMPTY_PATH, attributes)


def _set_attributes(directory: int, path: bytes, flags: int, attributes: int) -> None:
    given = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    what = (ctypes.byref(given), ctypes.sizeof(given))
    _syscall("mount_setattr", _SYS_MOUNT_SETATTR, directory, path, flags, *what)


def set_process(option: int, value: int) -> None:
    """Call prctl; options unknown to this system are ignored."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(option, value, 0, 0, 0)


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent ends."""
    set_process(PR_SET_PDEATHSIG, signal.SIGKILL)


def io_priority() -> int:
    """The I/O priority of this process; 0 if the call's number is unknown."""
    number = _SYS_IOPRIO_GET.get(os.uname().machine)
    if number is None or sys.platform != "linux":
        return 0
    return _syscall("ioprio_get", number, _IOPRIO_WHO_PROCESS, 0)


def drop_capabilities() -> None:
    """Drop all capabilities, also for programs started later."""
    for capability in range(_CAPABILITIES_MAX):
        # Fails for one that the kernel does not know.
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    set_process(PR_SET_NO_NEW_PRIVS, 1)


def _syscall(what: str, number: int, *arguments: Any) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        _check(result, what)
    return result


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
