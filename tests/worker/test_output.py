"""What attempts print: the last of it kept and bounded, each attempt's for itself."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.worker.output import LOGGED_LINE_BYTES_MAX, LOGGED_LINES_MAX, Output
from ipfs_cluster_node.core.model import OUTPUT_TAIL_BYTES_MAX

pytestmark = pytest.mark.asyncio
PIPE_BYTES = 32 * 1024


@pytest_asyncio.fixture
async def output() -> AsyncIterator[Output]:
    made = Output()
    made.begin("t1", 1)
    yield made
    os.close(made.theirs)
    made.close()


async def test_no_more_than_the_last_of_it_is_kept_while_it_is_printed(output: Output) -> None:
    for number in range(20):
        os.write(output.theirs, b"%02d" % number + b"x" * PIPE_BYTES)
        output._read()
        assert len(output._tail) <= OUTPUT_TAIL_BYTES_MAX
        assert len(output._line) <= LOGGED_LINE_BYTES_MAX
    os.write(output.theirs, b"the end")
    tail = output.finish()
    assert tail.endswith("the end")
    assert len(tail) == OUTPUT_TAIL_BYTES_MAX


async def test_an_attempt_gets_none_of_what_the_one_before_it_printed(
    output: Output, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    os.write(output.theirs, b"a line\n" * (LOGGED_LINES_MAX + 5) + b"half a line")
    assert output.finish().endswith("half a line")
    caplog.clear()
    output.begin("t2", 3)
    os.write(output.theirs, b"of the second\n")
    assert output.finish() == "of the second\n"
    [record] = caplog.records
    told = vars(record)
    assert (told["task_id"], told["attempt"], told["line"]) == ("t2", 3, "of the second")
