"""Commands of the command line, run in this process."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ipfs_cluster_node.cli.main import main


def invoke(monkeypatch: pytest.MonkeyPatch, module: Any, client: Any, *arguments: str) -> Result:
    """Run a command whose client is this one."""

    def run_client(
        _profile: str | None, operation: Callable[[Any], Coroutine[Any, Any, Any]]
    ) -> Any:
        return asyncio.run(operation(client))

    monkeypatch.setattr(module, "run_client", run_client)
    return CliRunner().invoke(main, arguments)


def complete_in_shell(shell: str, line: str) -> subprocess.CompletedProcess[str]:
    """What the completion script of a shell gets for a line, whose last word is begun."""
    words = ["ipfs-cluster-node", *line.split(" ")]
    given = {
        "_IPFS_CLUSTER_NODE_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(words[:-1] if shell == "fish" else words),
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1),
    }
    program = "from ipfs_cluster_node.cli.main import main; main(prog_name='ipfs-cluster-node')"
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
