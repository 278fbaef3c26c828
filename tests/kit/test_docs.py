"""The two shells of docs/kit.md: two programs, two nodes in the status in under 15 seconds."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.kits import kit_environment

pytestmark = pytest.mark.usefixtures("one_at_a_time")

PAGE = Path(__file__).parents[2] / "docs" / "kit.md"
SECONDS_MAX = 15.0
TOLD = '"/ip4/127.0.0.1/tcp/9096/p2p/12D3Koo…"'


def test_two_shells_by_the_page_alone(tmp_path: Path) -> None:
    first, second = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert second.count(TOLD) == 1
    environment = os.environ | kit_environment(tmp_path)
    began = time.monotonic()
    master = subprocess.Popen(
        [sys.executable, "-u", "-c", f"{first}\nimport sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert master.stdout is not None
        address = master.stdout.readline().strip()
        script = second.replace(TOLD, json.dumps(address))
        worker = subprocess.Popen(
            [sys.executable, "-u", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert worker.stdout is not None
        assert worker.stdout.readline() == "2\n"
        assert time.monotonic() - began < SECONDS_MAX
        assert worker.stdout.read() == "completed\n"
        assert worker.wait() == 0
        worker.stdout.close()
    finally:
        master.communicate("")
    assert master.returncode == 0
