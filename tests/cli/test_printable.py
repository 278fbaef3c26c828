"""Control characters in foreign text are escaped, however it is printed."""

import ast
import io
import json
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import ipfs_cluster_node.cli
from ipfs_cluster_node.cli.logs import JsonFormatter, PlainFormatter
from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import TaskState
from ipfs_cluster_node.core.printable import json_text, printable
from ipfs_cluster_node.core.views import (
    ListedFailure,
    ListedResult,
    ListedSpec,
    ListedTask,
    TaskStatus,
)

CLI = Path(ipfs_cluster_node.cli.__file__).parent
HOSTILE = (
    *(chr(code) for code in range(0x20)),
    *(chr(code) for code in range(0x7F, 0xA0)),
    *"\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e",
    *"\u2060\u2066\u2067\u2068\u2069\u061c\ufeff\u00ad\u180e\u3164\u034f",
    *("\ud800", "\udfff", "\U000e0001", "\U000e0041", "\U000e0100"),
)
WORDS = "".join(f"a{each}b" for each in HOSTILE)
FAIR = (
    "Köln, 東京\u3000都, \u05e9\u05dc\u05d5\u05dd, 1\u00a0000, 😀, e\u0301, \\x1b, [bold]x[/bold]"
)

SHOW = """
import sys
from types import SimpleNamespace
from ipfs_cluster_node.cli import files, output, sql_rows
from ipfs_cluster_node.core.errors import ClusterError, Reason
from pathlib import Path
import click
words = eval(sys.stdin.readline())
say = {
    "say": lambda: output.say(words, words),
    "say_error": lambda: output.say(words, err=True),
    "done": lambda: output.print_done({}, [words], False),
    "table": lambda: output.print_table(words, (words, "b"), [(words, 1), ("[bold]", [words])]),
    "result": lambda: output.print_result(words.encode("utf-8", "surrogatepass")),
    "json": lambda: output.print_json({"k": words}),
    "fail": lambda: output.reporting(lambda: (_ for _ in ()).throw(
        ClusterError(Reason.INTERNAL, words)))(),
    "sql": lambda: sql_rows.print_rows(SimpleNamespace(
        is_inline=True, is_unreadable=False, notes=[words], row_count=9, columns=[{"name": words}],
        rows=lambda: iter([[words], [[words]], ["[bold]"]]), document={"cid": words}), as_json=False),
    "progress": lambda: output.progress_bar(words, 1).__enter__()(1),
    "file": lambda: files.user_file(Path("-"), force=False).__enter__().write(
        words.encode("utf-8", "surrogatepass")),
}[sys.argv[1]]
with click.Context(click.Command("x")):
    say()
"""
"""Each way in which commands print; `test_commands_print_by_these_ways_only` keeps it complete."""


def on_a_terminal(way: str) -> str:
    """What one way of printing sends to a terminal."""
    leader, follower = pty.openpty()
    started = subprocess.Popen(
        [sys.executable, "-c", SHOW, way],
        stdin=subprocess.PIPE,
        stdout=follower,
        stderr=follower,
        env=os.environ | {"TERM": "dumb", "COLUMNS": "2000", "NO_COLOR": "1"},
    )
    os.close(follower)
    assert started.stdin is not None
    started.stdin.write(ascii(WORDS).encode() + b"\n")
    started.stdin.close()
    data = b""
    while True:
        try:
            data += (piece := os.read(leader, 65536))
        except OSError:
            break
        if not piece:
            break
    os.close(leader)
    started.wait()
    return data.decode()


def test_each_hostile_character_is_escaped_and_no_fair_one() -> None:
    for each in HOSTILE:
        shown = printable(f"a{each}b")
        assert shown.startswith("a\\"), ascii(each)
        assert shown.isprintable()
    assert printable(FAIR) == FAIR
    assert printable("\x1b[31m\r\n\u202e") == "\\x1b[31m\\r\\n\\u202e"
    assert printable("a\nb\t\x1b", keep="\n\t") == "a\nb\t\\x1b"


@pytest.mark.parametrize(
    "way",
    ["say", "say_error", "done", "table", "fail", "json", "result", "file", "progress", "sql"],
)
def test_a_terminal_obeys_nothing_of_it(way: str) -> None:
    shown = on_a_terminal(way)
    assert "a\\x00b" in shown or "a\\u0000b" in shown, shown
    # rich moves the cursor by itself around a progress bar, but for a dumb terminal by line ends.
    for each in set(HOSTILE) - set("\r\n\t" if way in ("result", "file") else "\r\n"):
        assert each not in shown, ascii(each)
    if way in ("table", "sql"):
        assert "[bold]" in shown


def test_a_pipe_gets_results_as_they_are_and_one_line_a_row(capfd: pytest.CaptureFixture) -> None:  # type: ignore[type-arg]
    from ipfs_cluster_node.cli import output

    output.print_result(b"\x1b[31m\xff\0")
    sys.stdout.flush()
    assert capfd.readouterr().out.encode("utf-8", "surrogateescape").startswith(b"\x1b[31m")
    output.print_table("t", ("a", "b"), [("x\ny\tz", "\u202e")])
    assert capfd.readouterr().out == "a\tb\nx\\ny\\tz\t\\u202e\n"


def test_commands_print_by_these_ways_only() -> None:
    """Any other way of printing must escape, and be listed here."""
    allowed = {
        ("output.py", "echo"),
        ("output.py", "Console"),
        ("output.py", "print"),
        # Rows one by one; tested as "sql".
        ("sql_rows.py", "echo"),
        ("state_commands.py", "echo"),
        ("sql_rows.py", "Console"),
        ("sql_rows.py", "print"),
        # The script of a shell, which is ours.
        ("shell_commands.py", "echo"),
    }
    found = set()
    for path in CLI.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ""
            if isinstance(node, ast.Call):
                function = node.func
                name = getattr(function, "attr", "") or getattr(function, "id", "")
            if name in ("echo", "secho", "print", "Console", "echo_via_pager"):
                found.add((path.name, name))
            if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr"):
                inside = path.read_text().splitlines()[node.lineno - 1]
                if ".write" in inside and path.name != "output.py":
                    found.add((path.name, "write"))
    assert found - allowed == set()


def test_json_and_logs_are_ascii_without_control_characters() -> None:
    document = {"k": WORDS, WORDS: [WORDS]}
    text = json_text(document)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == document
    record = logging.LogRecord("a", logging.WARNING, "f", 1, WORDS, (), None)
    record.task = WORDS
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    assert PlainFormatter().format(record).replace("\n", "").isprintable()
    assert "\\x1b" in PlainFormatter().format(record)


def test_errors_of_usage_are_escaped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for arguments in (["task", "submit", "x", "--input", "\x1b[31m"], ["\x1b[31m"], ["--\x1b[31m"]):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 2
        assert "\x1b" not in done.output, ascii(done.output)


def test_every_task_command_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure and its result by way of the commands themselves."""
    from ipfs_cluster_node.cli import task_commands

    told: list[str] = []
    monkeypatch.setattr("click.echo", lambda text="", **_: told.append(str(text)))
    failure = ListedFailure(message=WORDS, output_tail=f"{WORDS}\nlast\n")
    failed = ListedTask(status=TaskStatus(state=TaskState.FAILED, failure=failure))
    with pytest.raises(SystemExit):
        task_commands._print_ended(failed, as_json=False)
    rows = json.dumps(
        {"columns": [{"name": WORDS}], "rows": [[WORDS]], "row_count": 1, "inputs": {}}
    )
    result = ListedResult(
        data=rows.encode(), cid="c", size_bytes=1, content_type="application/json"
    )
    spec = ListedSpec(task_type="data_processing")
    done = ListedTask(spec=spec, status=TaskStatus(state=TaskState.SUCCEEDED, result=result))
    task_commands._print_ended(done, as_json=False)
    assert told[1] == "the end of its output:"
    assert "  last" in told
    assert len(told) == 8
    assert all(line.replace("\t", "").isprintable() for line in told)


def test_a_failed_task_shows_what_its_handler_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from ipfs_cluster_node.cli import task_commands

    failure = ListedFailure(
        reason=Reason.HANDLER_FAILED, message="why", output_tail="\x1b[31mred\nTraceback\n"
    )
    found = ListedTask(task_id="t", status=TaskStatus(state=TaskState.FAILED, failure=failure))
    monkeypatch.setattr(task_commands, "run_client", lambda _profile, _call: found)
    plain = CliRunner().invoke(task_commands.task, ["get", "t"]).output.splitlines()
    assert plain[-4:] == [
        "failure      why [HANDLER_FAILED]",
        "the end of its output:",
        "  \\x1b[31mred",
        "  Traceback",
    ]
    document = json.loads(CliRunner().invoke(task_commands.task, ["get", "t", "--json"]).output)
    assert document["status"]["failure"]["output_tail"] == failure.output_tail
