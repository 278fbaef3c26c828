"""Which files `content add` reads, and `content get` writes."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from ipfs_cluster_node.cli.files import confirms_overwriting, harmless_name

SCRIPT = """
import asyncio, sys
from types import SimpleNamespace
from ipfs_cluster_node.cli import content_commands
from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.core.multiformats import RAW, cid_of
from ipfs_cluster_node.core.views import RemovedContent

DATA = b"data"
CID = str(cid_of(RAW, DATA))

class Client:
    @property
    def lookups(self):
        return self

    async def cid(self, text):
        return CID if text == CID[:12] else text

    async def stat_content(self, cid):
        return SimpleNamespace(name="table.csv", cid=CID, size_bytes=4)

    async def get_content(self, cid):
        yield DATA

    async def remove_content(self, cid, *, namespace):
        return RemovedContent(size_bytes=4, freed_bytes=4)

    async def add_file(self, file, *, name, namespace, on_progress):
        file.seek(0)
        return SimpleNamespace(cid=f"{name}:{file.read().decode()}", size_bytes=4, holders=())

content_commands.run_client = lambda _profile, operation: asyncio.run(operation(Client()))
main([{"CID": CID, "BEGINNING": CID[:12]}.get(word, word) for word in sys.argv[1:]])
"""


def run(directory: Path, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", SCRIPT, "content", *words]
    return subprocess.run(
        command, input=given, capture_output=True, cwd=directory, timeout=60, check=False
    )


def test_standard_input_is_added(tmp_path: Path) -> None:
    assert run(tmp_path, "add", "-", given=b"bytes").stdout == b":bytes\n"
    assert run(tmp_path, "add", "-", "--name", "n", given=b"bytes").stdout == b"n:bytes\n"


def test_bytes_that_are_there_already_keep_their_name(tmp_path: Path) -> None:
    said = b"these bytes were there already under the name table.csv, which stays\n"
    assert run(tmp_path, "add", "-", "--name", "n", given=b"bytes").stderr == said
    assert run(tmp_path, "add", "-", "--name", "table.csv", given=b"bytes").stderr == b""
    assert run(tmp_path, "add", "-", given=b"bytes").stderr == b""


def test_a_file_is_read_by_the_beginning_of_its_cid(tmp_path: Path) -> None:
    assert run(tmp_path, "get", "BEGINNING", "-o", "-").stdout == b"data"
    assert run(tmp_path, "get", "BEGINNING").stdout == b"table.csv\n"


def test_what_is_removed_may_still_be_read_for_a_while(tmp_path: Path) -> None:
    said = run(tmp_path, "rm", "CID").stdout
    assert b"nothing else has go within 20 minutes" in said
    assert b"within 20 minutes, until then it may be read by its CID" in said
    assert b"within 20 minutes" in b" ".join(run(tmp_path, "rm", "--help").stdout.split())


def test_a_file_is_written_under_its_name_and_overwrites_nothing_without_a_terminal(
    tmp_path: Path,
) -> None:
    assert run(tmp_path, "get", "CID").stdout == b"table.csv\n"
    assert (tmp_path / "table.csv").read_bytes() == b"data"
    (tmp_path / "table.csv").write_bytes(b"mine")
    refused = run(tmp_path, "get", "CID", given=b"y\n")
    assert refused.returncode != 0
    assert b"--force" in refused.stderr
    assert (tmp_path / "table.csv").read_bytes() == b"mine"
    assert run(tmp_path, "get", "CID", "--force").returncode == 0
    assert (tmp_path / "table.csv").read_bytes() == b"data"
    (tmp_path / "into").mkdir()
    assert run(tmp_path, "get", "CID", "-o", "into").stdout == b"into/table.csv\n"


@pytest.mark.parametrize("name", ["a.csv", "ä b.txt", "n" * 255])
def test_an_ordinary_name_is_harmless(name: str) -> None:
    assert harmless_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".bashrc", "-rf", "a/b", "/etc/passwd", "../a", "a\nb", "ä" * 128]
)
def test_a_name_that_leads_elsewhere_or_hides_is_not_used(name: str) -> None:
    assert harmless_name(name) == ""


def test_overwriting_is_confirmed_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = tmp_path / "file", []
    path.write_text("mine")

    def confirm(text: str, **_: object) -> bool:
        asked.append(text)
        return len(asked) == 2

    monkeypatch.setattr(click, "confirm", confirm)
    assert not confirms_overwriting(path)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert not confirms_overwriting(tmp_path / "new")
    assert not asked
    assert [confirms_overwriting(path), confirms_overwriting(path)] == [False, True]
    assert asked == [f"{path} exists. Overwrite it?"] * 2


class Terminal:
    def isatty(self) -> bool:
        return True
