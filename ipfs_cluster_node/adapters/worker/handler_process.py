"""The processes that handlers run in: their start and their end.

The node starts the *launcher*, which creates the namespaces and starts the *keeper*, their init:
everything in them ends with it. The keeper loads the handlers once; then it only forks *runners*,
which are ready at once and run attempts, and ends them with everything that they started. It shares
no descriptor with a runner, reads nothing that one writes, and can't be traced, so whatever a
handler does to its own process is gone with the next runner. As a process of the same user a
handler can change what later runners inherit from the keeper, such as its limits: a keeper that
differs from its start is replaced.

On the keeper's socket the node sends what to load the handlers from; then `FORK`, with a runner's
socket and the pipe for its output, or `END`, which is answered by `ENDED` and how the runner ended.
"""

import gc
import json
import os
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress
from dataclasses import astuple
from typing import Any, Final

from ipfs_cluster_node.adapters.worker import linux
from ipfs_cluster_node.adapters.worker.confinement import SHARED_MEMORY, Place, confine, enter
from ipfs_cluster_node.adapters.worker.inherited import inherited_with_files
from ipfs_cluster_node.adapters.worker.registry import kept_types, load_handlers
from ipfs_cluster_node.adapters.worker.runner import START_FAILED_STATUS, read_exactly, run
from ipfs_cluster_node.adapters.worker.sources import Sources
from ipfs_cluster_node.adapters.worker.trees import empty, kill_descendants, reap
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.tasks import Handler

FORK: Final = b"F"
END: Final = b"E"
ENDED: Final = struct.Struct("<i?")
"""The runner's wait status, and whether it left and changed nothing, so that another can be
forked."""
LENGTH: Final = struct.Struct("<I")
"""Before a JSON object: to the node `pid`, and then `failed`, `invalid` or all else; to the keeper
the sources."""
END_SECONDS_MAX: Final = 2.0


def main() -> None:
    """Serve a socket. Arguments: its descriptor, and the JSON from `processes.py`."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    told: dict[str, Any] = json.loads(sys.argv[2])
    confined = bool(told["confined"])
    if confined:
        hidden = [Place(*place) for place in told["hidden"]]
        try:
            confine(hidden, told["scratch"], told["writable"], told["visible"])
        except OSError as error:
            _say(control, {"pid": 0, "failed": str(error)})
            return
    # Set after entering the namespaces: a change of credentials clears it.
    linux.die_with_parent()
    if os.getppid() != told["parent"]:
        return
    linux.set_process(linux.PR_SET_CHILD_SUBREAPER, 1)
    keeper = os.fork()
    if not keeper:
        try:
            _keep(control, told, confined=confined)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _say(control, {"pid": keeper})
    control.close()
    with suppress(ChildProcessError):
        os.waitpid(keeper, 0)
    _end_all(confined=False)  # Without namespaces, orphans of a killed keeper come here.


def _keep(control: socket.socket, told: dict[str, Any], *, confined: bool) -> None:
    linux.die_with_parent()
    linux.set_process(linux.PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # An init without handlers ignores signals from inside its namespace.
        signal.signal(number, signal.SIG_DFL)
    missing: list[str] = []
    if confined:
        try:
            missing = enter()
        except OSError as error:
            _say(control, {"failed": str(error)})
            return
    [size] = LENGTH.unpack(read_exactly(control, LENGTH.size))
    try:
        sources = Sources.decoded(json.loads(read_exactly(control, size)))
        handlers, refused = load_handlers(sources)
    except ClusterError as error:
        notes = "\n".join(getattr(error, "__notes__", ()))
        _say(control, {"invalid": error.message, "traceback": notes})
        return
    if not confined:
        # If it were killed with the node, processes of handlers would be left: instead it ends them
        # itself once its socket closes. In namespaces they all end with this process.
        linux.set_process(linux.PR_SET_PDEATHSIG, 0)
    # Otherwise a handler could read or change it, and with it every later runner.
    linux.set_process(linux.PR_SET_DUMPABLE, 0)
    sys.stdout.flush()  # Otherwise each runner would print it again.
    sys.stderr.flush()
    gc.collect()
    gc.freeze()  # Otherwise a runner's first collection would copy every page.
    keeper = _Keeper(control, handlers, told["memory_bytes_max"], confined=confined)
    loaded = {
        "types": sorted(handlers),
        "kept": sorted(kept_types(handlers)),
        "refused": [astuple(each) for each in refused],
    }
    _say(control, {"missing": missing, **loaded})
    keeper.serve()
    _end_all(confined=confined)


class _Keeper:
    """Forks runners, one at a time, and ends them."""

    def __init__(
        self, control: socket.socket, handlers: dict[str, Handler], memory: int, *, confined: bool
    ) -> None:
        self._control, self._confined = control, confined
        self._handlers, self._memory_bytes_max = handlers, memory
        self._runner = self._status = 0
        self._inherited = inherited_with_files()
        signal.signal(signal.SIGCHLD, self._on_child)

    def serve(self) -> None:
        """Obey the node until it is gone."""
        while True:
            said, descriptors, _, _ = socket.recv_fds(self._control, 1, 2)
            for descriptor in descriptors:  # Not inherited by programs that a handler starts.
                os.set_inheritable(descriptor, False)
            if said == FORK:
                self._fork(*descriptors)
            elif said == END:
                clean = _end_all(confined=self._confined, on_ended=self._note)
                clean = clean and self._can_fork()
                self._control.sendall(ENDED.pack(self._status, clean))
            else:
                return

    def _can_fork(self) -> bool:
        """Whether the next runner would start under the same conditions as the first."""
        if os.WIFEXITED(self._status) and os.WEXITSTATUS(self._status) == START_FAILED_STATUS:
            return False
        try:
            return bool(inherited_with_files() == self._inherited)
        except OSError:
            return False

    def _fork(self, channel: int, output: int) -> None:
        self._status = 0
        self._runner = os.fork()
        if self._runner:
            os.close(channel)
            os.close(output)
            return
        try:
            self._control.close()
            run(channel, output, self._handlers, self._memory_bytes_max)
        finally:
            os._exit(1)

    def _on_child(self, _number: int, _frame: Any) -> None:
        self._note(reap())

    def _note(self, ended: list[tuple[int, int]]) -> None:
        for pid, status in ended:
            if pid == self._runner:
                self._status = status


def _end_all(*, confined: bool, on_ended: Any = lambda _ended: None) -> bool:
    """End everything that this process started; orphans are reparented to it."""
    if not confined:
        clean = kill_descendants(os.getpid(), seconds=END_SECONDS_MAX)
        on_ended(reap())
        return clean
    assert os.getpid() == 1
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)  # Everything in this namespace except its init, atomically.
    with suppress(ChildProcessError):
        while True:
            on_ended([os.waitpid(-1, 0)])
    try:
        empty(SHARED_MEMORY)
    except OSError:
        return False
    return True


def _say(control: socket.socket, what: dict[str, Any]) -> None:
    encoded = json.dumps(what).encode()
    control.sendall(LENGTH.pack(len(encoded)) + encoded)


if __name__ == "__main__":
    main()
