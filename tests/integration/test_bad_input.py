"""Bad input gets a sentence with the way out, its exit status, and loses nothing."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import ClusterError, Reason
from tests.support.devices import device_that_takes_all

ABSENT = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
"""The CID of bytes that nobody has."""


@pytest.mark.asyncio
async def test_a_file_that_vanishes_or_changes_on_the_way_is_not_added(
    client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "large.bin"

    def once(act: Callable[[], object]) -> Callable[[int], None]:
        done: list[object] = []

        def on_progress(sent: int) -> None:
            if sent and not done:
                done.append(act())

        return on_progress

    def append() -> None:
        with path.open("ab") as file:
            file.write(b"more")

    before = {content.cid for content in await client.list_content()}
    for act in (lambda: os.truncate(path, 0), append):
        path.write_bytes(os.urandom(5_000_000))
        with pytest.raises(ClusterError) as caught:
            await client.add_content(path, on_progress=once(act))
        assert caught.value.reason is Reason.INVALID_ARGUMENT
        assert "5000000 were announced" in caught.value.message
    with pytest.raises(OSError, match="Input/output error"):
        await client.add_content(Path("/proc/self/mem"))
    assert {content.cid for content in await client.list_content()} == before
    # A name that is gone takes nothing from who has the file open.
    path.write_bytes(data := os.urandom(5_000_000))
    added = await client.add_content(path, on_progress=once(path.unlink))
    assert b"".join([piece async for piece in client.get_content(added.cid)]) == data
    with pytest.raises(FileNotFoundError):
        await client.add_content(path)


def test_the_command_line_answers_bad_input_with_a_sentence_and_a_status(
    cli: Any, cluster: LocalCluster, tmp_path: Path
) -> None:
    home = str(cluster.nodes[0].home.path)
    token = "cj1." + "0" * 64 + "." + "0" * 16 + "." + "0" * 32
    enrolment = f"127.0.0.1:{cluster.enrolment_port}"
    wrong: list[object] = []
    large = tmp_path / "large"
    large.write_bytes(bytes(1024 * 1024 + 1))
    for arguments, status, words in (
        (("task", "get", "nope"), 5, "no task nope"),
        (("content", "get", "non-sense"), 2, "is not a CID"),
        (("content", "get", "nonsense"), 5, "no file 'nonsense'"),
        (("content", "add", str(tmp_path / "absent")), 2, "does not exist"),
        (("content", "add", str(tmp_path)), 2, "is a directory"),
        (("content", "add", "/dev/null"), 2, "not a regular file"),
        (("content", "add", "/proc/self/mem"), 2, "check the path"),
        (("content", "get", ABSENT), 5, "held by none of the nodes asked"),
        (("content", "get", ABSENT, "-o", "/proc/x"), 2, "check the path"),
        (("content", "stat", ABSENT), 5, "removed, or never added"),
        (("task", "submit", "echo", "--payload", str(large)), 2, "at most"),
        (("task", "submit", "echo", "--input", "x"), 2, "NAME=CID"),
        (("task", "submit", "echo", "--input", "x=y"), 2, "CID"),
        (("task", "submit", "data_processing", "--sql", "SELEC", "--wait"), 6, "SELEC"),
        (("task", "cancel", "nope"), 5, "no task nope"),
        (("task", "watch", "nope"), 5, "no task nope"),
        (("task", "wait", "nope"), 5, "no task nope"),
        (("node", "health", "nope"), 5, "no node 'nope'"),
        (("node", "remove", "nope", "--yes"), 5, "no node 'nope'"),
        (("config", "set", "node_lease", "x"), 2, "is not a duration"),
        (("state", "tasks", "--save", str(tmp_path / "x.doc")), 2, ".parquet"),
        (("state", "tasks", "--save", "/proc/x.csv"), 2, "check the path"),
        (("task", "submit", "nope"), 2, "no node has a handler"),
        (("--profile", "nope", "status"), 2, "no profile"),
        (("serve", "--home", home), 1, "is already using"),
        (("serve", "--home", str(tmp_path / "none")), 1, "no node in"),
        (("init", "--home", home), 1, "already"),
        (("join", "rubbish", "--enrolment", enrolment, "--home", str(tmp_path / "j")), 4, "cj1."),
        (("join", token, "--enrolment", enrolment, "--home", str(tmp_path / "j")), 4, "not in the"),
        (
            ("join", token, "--enrolment", "127.0.0.1:1", "--home", str(tmp_path / "j")),
            3,
            "answers",
        ),
    ):
        done = cli(*arguments)
        lines = done.stderr.strip().splitlines()
        said = [line for line in lines if not line.startswith("task ")] or [""]
        # A usage error of click comes with its usage; everything else is one line.
        alone = len(said) == 1 or said[0].startswith("Usage:")
        if done.returncode != status or words not in said[-1] or not alone:
            wrong.append((arguments, done.returncode, done.stderr, done.stdout))
    assert wrong == []


def test_who_waits_too_short_is_told_that_the_task_goes_on(cli: Any) -> None:
    endless = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"
    done = cli(
        *("task", "submit", "data_processing", "--sql", endless, "--wait", "--timeout", "1s"),
        *("--attempt-timeout", "60s"),
    )
    assert done.returncode == 7
    named, *said = done.stderr.strip().splitlines()
    task_id = named.removeprefix("task ")
    assert any("will continue" in line for line in said)
    assert any(f"task cancel {task_id}" in line for line in said), said
    assert cli("task", "cancel", task_id).returncode == 0


def test_a_result_too_large_to_come_along_is_named(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_text("x" * 200_000)
    done = cli("task", "submit", "echo", "--payload", str(path), "--wait")
    assert done.returncode == 0, done.stderr
    cid = done.stderr.split()[-1]
    assert cli("content", "get", cid, "-o", str(tmp_path)).returncode == 0
    assert (tmp_path / cid).read_text() == "x" * 200_000


def test_a_command_writes_over_no_file_and_keeps_pipes_and_devices(
    cli: Any, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_text("content")
    cid = cli("content", "add", str(source)).stdout.strip()
    out = tmp_path / "out.csv"
    commands = (
        ("content", "get", cid, "-o", str(out)),
        ("cluster", "backup", str(out)),
        ("state", "nodes", "--save", str(out)),
        ("audit", "list", "--save", str(out)),
    )
    for number, arguments in enumerate(commands):
        out.write_text("kept")
        out.chmod(0o664)
        done = cli(*arguments)
        assert (done.returncode, out.read_text()) == (2, "kept"), arguments
        assert "--force" in done.stderr
        done = cli(*arguments, "--force")
        assert done.returncode == 0, done.stderr
        assert out.read_bytes()[:4] != b"kept"
        assert out.stat().st_mode & 0o777 == (0o600 if number == 1 else 0o664)
        out.unlink()
        os.mkfifo(out)
        with subprocess.Popen(("cat", str(out)), stdout=subprocess.PIPE) as reader:
            assert cli(*arguments).returncode == 0, arguments
            assert reader.stdout is not None
            assert reader.stdout.read()
        assert out.is_fifo()
        out.unlink()
    made = {path.name for path in tmp_path.iterdir()} - {"profiles.toml.lock"}
    assert made == {"profiles.toml", "source"}
    null = tmp_path / "null"
    device = device_that_takes_all(tmp_path / "device")
    null.symlink_to(device)
    assert cli("content", "get", cid, "-o", str(null)).returncode == 0
    assert null.is_symlink()
    assert device.is_char_device()


def test_a_second_node_on_the_same_port_is_refused(
    cli: Any, cluster: LocalCluster, tmp_path: Path
) -> None:
    taken = f"127.0.0.1:{cluster.nodes[0].port}"
    assert (
        cli(
            "init", "--home", str(tmp_path / "m"), "--bind", taken, "--profile-name", "x"
        ).returncode
        == 0
    )
    done = cli("serve", "--home", str(tmp_path / "m"))
    assert done.returncode == 1
    assert "can't listen on" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
