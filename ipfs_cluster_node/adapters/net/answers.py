"""What a server answered to a call that was still writing, which grpc.aio's client forgets."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Final

import grpc

from ipfs_cluster_node.codec.errors import CORE_FAILURE

ANSWER_SECONDS_MAX: Final = 0.5
"""How long to wait for an answer that a failed write was faster than; none may come at all."""
LOOK_SECONDS: Final = 0.005


class KeptAnswer:
    """The first status that a call ended with.

    A server may answer before it was sent everything: a refusal, say. A write that comes too late
    then fails, and grpc.aio (1.85, grpc issue 36066) puts an INTERNAL of its own in the place of
    what the server said. Of refused uploads that hid about every second answer.
    """

    def __init__(self, call: Any) -> None:
        """Begin to listen, before the first write."""
        self._call = call
        self._kept: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._keep)

    async def error(self, raised: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """What the call ended with.

        Args:
            raised: What the call raised.

        Returns:
            The server's error; `raised`, if the server said nothing or OK.
        """
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while raised.details() == CORE_FAILURE and time.monotonic() < deadline:
            if self._kept is None:
                self._keep(self._call)  # By now the answer may have taken its place again.
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
    """What a finished call knows: its coroutines end without a wait, and later may be too late."""
    try:
        known.send(None)
    except StopIteration as end:
        return end.value
    known.close()
    raise RuntimeError("a finished call does not know how it ended")
