"""Programs of `clients/examples`, which `install_tools` (scripts/lib/tools.sh) builds."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TOOLS: Final = ROOT / ".tools"
PROTOS: Final = ROOT / "protos"
LINE_SECONDS_MAX: Final = 30.0


def needed(*files: Path) -> None:
    """Skip a test whose program was not built; with CI=true that is a failure."""
    for file in files:
        if not file.exists():
            pytest.skip(
                f"{file.relative_to(ROOT)} is not there: scripts/test without arguments builds it"
            )


class Program:
    """A running program, read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []

    async def line(self, start: str) -> str:
        """The next line that begins so."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LINE_SECONDS_MAX):
            async for raw in self._process.stdout:
                line = raw.decode().rstrip()
                self.lines.append(line)
                if line.startswith(start):
                    return line
        raise AssertionError(f"the program ended without {start!r}: {self.lines}")

    async def ended(self) -> list[str]:
        """All lines of a program that ends by itself, without an error."""
        async with asyncio.timeout(2 * LINE_SECONDS_MAX):
            output, _ = await self._process.communicate()
        self.lines += output.decode().splitlines()
        assert self._process.returncode == 0, self.lines
        return self.lines


@asynccontextmanager
async def running(command: Sequence[str]) -> AsyncIterator[Program]:
    """Run a program for the time of a block."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
