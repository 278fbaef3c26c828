"""Commands of the command line, run in this process."""

import asyncio
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
