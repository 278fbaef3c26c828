"""Keeps what a node must keep to itself out of the sight of its handlers.

A handler runs as the node's user, and could read the node's keys. So its process leaves, before it
loads any, for a user and a mount namespace of its own, puts empty directories and files over the
node's, and gives up the rights to take them away again. From another user namespace it can't look
into the node's memory either. Works without root where the kernel lets users make namespaces.

Source: user_namespaces(7), mount_namespaces(7), capabilities(7), ptrace(2).
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWUSER: Final = 0x1000_0000
MS_RDONLY: Final = 1
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x4_0000
PR_SET_DUMPABLE: Final = 4
PR_CAPBSET_DROP: Final = 24
CAPABILITIES_MAX: Final = 64
_CAPABILITY_VERSION_3: Final = 0x2008_0522


def confine(hidden: Sequence[Path]) -> None:
    """Hide files and directories from this process and all that it starts, for good.

    Call it while the process has one thread.

    Args:
        hidden: What there is of these is empty from now on.

    Raises:
        OSError: It can't be done here; nothing is hidden then, and nothing is lost but rights.
    """
    libc: Any = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        raise OSError("this system has no namespaces")
    uid, gid = os.getuid(), os.getgid()
    _check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare")
    # Files keep their owner, and this process its name.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _mount(libc, b"none", b"/", b"", MS_REC | MS_PRIVATE)
    for path in hidden:
        if path.is_dir():
            _mount(libc, b"none", os.fsencode(path), b"tmpfs", MS_RDONLY)
        elif path.exists():
            _mount(libc, b"/dev/null", os.fsencode(path), b"", MS_BIND)
    _drop_capabilities(libc)
    # Else the node could not read which processes are its handler's.
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def _mount(libc: Any, source: bytes, target: bytes, kind: bytes, flags: int) -> None:
    _check(libc.mount(source, target, kind, ctypes.c_ulong(flags), None), "mount")


def _drop_capabilities(libc: Any) -> None:
    """Give up what the new namespace gave, and what a program of the same user would get anew."""
    for capability in range(CAPABILITIES_MAX):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # Fails where the kernel knows no such.
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
