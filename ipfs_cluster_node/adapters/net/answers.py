"""The status of a call that ended while it was still writing, which grpc.aio's client loses."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import grpc

from ipfs_cluster_node.codec.errors import CORE_FAILURE

ANSWER_SECONDS_MAX: Final = 0.5
"""How long to wait for a status after a failed write; there may never be one."""
LOOK_SECONDS: Final = 0.005


class KeptAnswer:
    """The first status that a call ended with.

    A server may answer, for example refuse, before it has received everything. A later write then
    fails, and grpc.aio (1.85, grpc issue 36066) replaces the server's status by an INTERNAL of its
    own. That hid about half of the refusals of uploads.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._kept: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._keep)

    async def error(self, raised: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The server's error instead of a raised one; that one, if it sent no status or OK."""
        now = asyncio.get_running_loop().time
        deadline = now() + ANSWER_SECONDS_MAX
        while raised.details() == CORE_FAILURE and now() < deadline:
            if self._kept is None:
                self._keep(self._call)  # The server's status may be back by now.
            if self._kept is not None:
                return self._kept
            await asyncio.sleep(LOOK_SECONDS)
        return raised

    def _keep(self, call: Any) -> None:
        if not call.done():
            return
        code, details = _at_once(call.code()), _at_once(call.details())
        if code is not grpc.StatusCode.OK and details != CORE_FAILURE:
            initial = _at_once(call.initial_metadata())
            trailing = _at_once(call.trailing_metadata())
            self._kept = grpc.aio.AioRpcError(code, initial, trailing, details)


def _at_once(known: Coroutine[Any, Any, Any]) -> Any:
    """Read a finished call at once: its coroutines do not wait, and later may be too late."""
    try:
        known.send(None)
    except StopIteration as end:
        return end.value
    known.close()
    raise RuntimeError("a finished call does not know how it ended")
