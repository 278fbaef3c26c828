"""What an attempt leaves behind in its process is noticed, so that the process is not kept."""

import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.worker.runner import _traces


@contextmanager
def directory() -> Iterator[None]:
    before = Path.cwd()
    os.chdir("/")
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def mask() -> Iterator[None]:
    before = os.umask(0o123)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def environment() -> Iterator[None]:
    os.environ["LEFT_BEHIND"] = "1"
    try:
        yield
    finally:
        del os.environ["LEFT_BEHIND"]


@contextmanager
def handled_signal() -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@contextmanager
def blocked_signal() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def open_file() -> Iterator[None]:
    with tempfile.TemporaryFile():
        yield


@contextmanager
def thread() -> Iterator[None]:
    ends = threading.Event()
    left = threading.Thread(target=ends.wait)
    left.start()
    try:
        yield
    finally:
        ends.set()
        left.join()


@contextmanager
def default_timeout() -> Iterator[None]:
    socket.setdefaulttimeout(1.0)
    try:
        yield
    finally:
        socket.setdefaulttimeout(None)


@contextmanager
def import_path() -> Iterator[None]:
    sys.path.append("/left-behind")
    try:
        yield
    finally:
        sys.path.remove("/left-behind")


LEFT = (
    directory,
    mask,
    environment,
    handled_signal,
    blocked_signal,
    open_file,
    thread,
    default_timeout,
    import_path,
)


@pytest.mark.parametrize("left", LEFT)
def test_what_is_left_behind_is_noticed(left: Callable[[], AbstractContextManager[None]]) -> None:
    before = _traces()
    assert _traces() == before
    with left():
        assert _traces() != before
    assert _traces() == before
