"""Tables on a narrow terminal: columns are left out, no word is broken."""

import sys

import pytest

from ipfs_cluster_node.cli import output

COLUMNS = ("task", "type", "state", "failure")
ROWS = [("1234abcd", "a-word-of-some-length", "running", "no worker runs it"), ("x", "", "", "")]


@pytest.mark.parametrize(
    ("cells", "shown", "last"),
    [
        (80, 4, None),
        (50, 3, "1234abcd failed: no worker runs it"),
        (30, 2, "1234abcd failed: no worker runs it"),
    ],
)
def test_a_narrow_terminal_drops_columns_and_breaks_no_word(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cells: int,
    shown: int,
    last: str | None,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(cells))
    output.print_table("Tasks", COLUMNS, ROWS, ("failure", "type"))
    out, err = capsys.readouterr()
    lines = out.splitlines()
    [row] = [line for line in lines if "1234abcd" in line and "running" in line]
    assert ("a-word-of-some-length" in row) is (shown > 2)
    assert ("no worker runs it" in row) is (shown > 3)
    assert last is None or lines[-1] == last
    assert ("left out: type;" in err) is (shown == 2)
