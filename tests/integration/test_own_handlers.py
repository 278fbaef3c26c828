"""Own handlers on a real cluster: the page about them as it is printed, `dev` and a node's home."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipfs_cluster_node.cli.local_cluster import command
from tests.support.environment import environment_with

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "handlers.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
HANDLERS = sorted(name for name, code in FILES.items() if "@task_handler(" in code)
DEV_SECONDS_MAX = 90.0
LOADED = "the changed handlers are loaded"
SHELL = f"""
ipfs-cluster-node() {{ {sys.executable} -P -m ipfs_cluster_node "$@"; }}
python() {{ {sys.executable} "$@"; }}
"""


class Dev:
    """A `dev` with the page's handlers, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = environment_with(directory / "profiles.toml")
        self.environment |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        directory.chmod(0o700)
        for name, code in FILES.items():
            self.write(name, code)
        self.errors = directory / "dev.log"
        named = [f"--handlers={name}" for name in HANDLERS]
        counts = ["--masters=1", "--workers=1", "--directory=nodes", "--json"]
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command("dev", *counts, *named),
                cwd=directory,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        assert ready, self.errors.read_text()
        self.nodes = {each["name"]: each["node_id"] for each in json.loads(ready)["nodes"]}

    def write(self, name: str, code: str) -> None:
        path = self.directory / name
        path.write_text(code)
        path.chmod(0o644)

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", SHELL + line],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def json(self, line: str) -> dict[str, object]:
        done = self.shell(f"ipfs-cluster-node {line} --json")
        assert done.returncode in (0, 1), done.stderr
        return dict(json.loads(done.stdout))

    def says(self, words: str, change: Callable[[], object]) -> None:
        """Make a change, and wait until `dev` says these words once more."""
        before = self.errors.read_text().count(words)
        change()
        self.until(lambda: self.errors.read_text().count(words) > before)

    def until(self, holds: Callable[[], bool]) -> None:
        ends = time.monotonic() + DEV_SECONDS_MAX
        while not holds():
            assert time.monotonic() < ends, self.errors.read_text()
            time.sleep(0.2)  # Between looks at what another process has written.

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        with self.process:
            assert self.process.wait(30) == 0


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    started = Dev(tmp_path_factory.mktemp("dev"))
    yield started
    started.stop()


def test_the_examples_of_the_page_print_what_it_says(dev: Dev) -> None:
    sessions = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    assert len(sessions) >= 6
    for name in FILES:
        assert name in HANDLERS or any(name in session for session in sessions), name
    for session in sessions:
        for line, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE):
            done = dev.shell(line)
            printed = re.sub(r" in [\d.]+s$", "", done.stdout.strip())  # How long pytest took.
            assert (printed, done.returncode) == (expected.strip(), 0), (line, done.stderr)


def test_the_readmes_handler_and_commands_are_those_of_the_page() -> None:
    section = (ROOT / "README.md").read_text().split("## Your own tasks\n")[1].split("\n## ")[0]
    blocks = [
        textwrap.dedent(block).strip() for block in re.findall(r"(?m)(?:^(?: {4}.*)?\n)+", section)
    ]
    code, commands = [block for block in blocks if block]
    assert code == FILES["word_count.py"].strip()
    assert len(commands.splitlines()) == 3
    for line in commands.splitlines():
        assert line in PAGE


def test_an_unknown_type_is_refused_with_the_known_ones(dev: Dev) -> None:
    done = dev.shell("ipfs-cluster-node task submit word_cuont --data x")
    assert done.returncode == 2
    known = done.stderr.partition("there are handlers for ")[2].split()[0:-1]
    assert {"echo,", "mean,", "word_count"} <= set(known)


def test_a_changed_file_is_loaded_and_a_broken_one_changes_nothing(dev: Dev) -> None:
    try:
        more = FILES["mean.py"].replace('"mean"', '"mean2"').replace("< 3", "< 1")
        more = more.replace("def mean(", "def mean2(")
        dev.says(LOADED, lambda: dev.write("mean.py", more))
        done = dev.shell("ipfs-cluster-node task submit mean2 --data '[2]' --wait")
        assert json.loads(done.stdout) == {"mean2": 2.0, "attempt": 1}
        broken = more + "import nothing_like_it\n"
        dev.says(
            "the workers continue with the previous version", lambda: dev.write("mean.py", broken)
        )
        assert f'File "{dev.directory / "mean.py"}", line ' in dev.errors.read_text()
        assert dev.shell("ipfs-cluster-node task submit mean2 --data '[2]' --wait").returncode == 0
    finally:
        dev.says(LOADED, lambda: dev.write("mean.py", FILES["mean.py"]))


def test_files_of_a_nodes_home_are_loaded_and_a_broken_one_shows_in_its_health(dev: Dev) -> None:
    home = dev.directory / "nodes" / "worker-1"
    shutil.copy(dev.directory / "word_count.py", home / "handlers" / "twice.py")
    dev.write(
        "nodes/worker-1/handlers/own.py",
        'import os\nfrom ipfs_cluster_node.tasks import task_handler\n\n@task_handler("own")\n'
        f"def own(task):\n    return sorted(os.listdir({str(home)!r}))\n",
    )
    dev.write(
        "nodes/worker-1/handlers/broken.py", "def f():\n    raise ValueError('broken so')\nf()"
    )
    dev.says(LOADED, lambda: os.utime(dev.directory / "mean.py"))
    done = dev.shell("ipfs-cluster-node task submit own --wait")
    confinement, handlers = (
        each
        for each in dev.json(f"node health {dev.nodes['worker-1']}")["checks"]  # type: ignore[attr-defined]
        if each["name"] in ("confinement", "handlers")
    )
    if not confinement["degraded"]:
        assert json.loads(done.stdout) == ["handlers", "state"]
    assert handlers["degraded"]
    assert "broken.py (ValueError: broken so)" in handlers["detail"]
    assert "both handle 'word_count'" in handlers["detail"]
    assert "line 2, in f" in (home / "log").read_text()
    assert (
        dev.shell("ipfs-cluster-node task submit word_count --input text=slow.py").returncode == 0
    )


@pytest.mark.parametrize("option", ["dev --directory d", "serve --home nodes/worker-1"])
def test_a_named_file_that_can_not_be_loaded_refuses_the_start(dev: Dev, option: str) -> None:
    dev.write("wrong.py", "import nothing_like_it\n")
    if option.startswith("serve"):
        # The running worker holds its home: a copy is none that may run, but fails before that.
        shutil.copytree(dev.directory / "nodes" / "worker-1", dev.directory / "copy")
        option = "serve --home copy --bind 127.0.0.1:0"
    done = dev.shell(f"ipfs-cluster-node {option} --handlers wrong.py")
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert f'  File "{dev.directory / "wrong.py"}", line 1, in <module>' in lines
    assert "correct it, or leave it out of --handlers" in lines[-1]
    assert lines[-1].endswith("[CONFIG_INVALID]")
    assert not (dev.directory / "d").exists()
