"""`state watch` as text."""

import pytest

from ipfs_cluster_node.cli import state_commands
from ipfs_cluster_node.codec import state_watch


def test_rows_have_their_columns_and_tabs_and_nothing_else_gets_through(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(state_watch, "event_document", lambda event: event)
    printer = state_commands._Printer(as_json=False)
    row = {"key": "user.a", "value": "1\t\x1b[2J"}
    printer.show({"event": "snapshot", "rows": [row]})
    printer.show({"event": "upserts", "rows": [row]})
    printer.show({"event": "deletions", "keys": ["user.b", "user.c"]})
    printer.show({"event": "bookmark", "revision": 1})
    shown = "+\tuser.a\t1\\t\\x1b[2J"
    assert capsys.readouterr().out.splitlines() == [
        *("\tkey\tvalue", shown, shown),
        *("-\tuser.b", "-\tuser.c"),
    ]
