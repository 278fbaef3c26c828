"""What a task of consensus waits for between two turns."""

import asyncio


class Wake:
    """An `asyncio.Event` for one waiter, which clears it: a third of the calls."""

    def __init__(self) -> None:
        """Begin with nothing to wake for."""
        self._due = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the waiter now, or let it not wait the next time."""
        self._due = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():  # It may have been cancelled.
            waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until it is set, unless it is already; then clear it."""
        if not self._due:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._due = False
