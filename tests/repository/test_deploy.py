"""The files for running nodes as services are valid, and the wheel has what it needs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ipfs_cluster_node.core.errors import Exit

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
UNIT = DEPLOY / "ipfs-cluster-node.service"
EXECUTABLE = "/opt/ipfs-cluster-node/bin/ipfs-cluster-node"
TOOLS = Path(sys.executable).parent


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_valid(tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert f"ExecStart={EXECUTABLE} serve\n" in text
    here = tmp_path / UNIT.name
    here.write_text(text.replace(EXECUTABLE, str(TOOLS / "ipfs-cluster-node")))
    run("systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", here)


def test_the_unit_does_not_restart_a_removed_node() -> None:
    assert f"RestartPreventExitStatus={Exit.REMOVED.value}\n" in UNIT.read_text()


def test_the_image_is_well_made() -> None:
    run(TOOLS / "hadolint", DEPLOY / "Containerfile")


def test_the_image_copies_files_that_exist() -> None:
    copies = [
        line.split()[1:-1]
        for line in (DEPLOY / "Containerfile").read_text().splitlines()
        if line.startswith("COPY ")
    ]
    assert copies
    assert all((ROOT / source).exists() for sources in copies for source in sources)


def test_the_compose_file_follows_its_schema() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    run(TOOLS / "check-jsonschema", *schema, DEPLOY / "compose.yaml")


def test_the_wheel_holds_every_module_and_only_the_package(tmp_path: Path) -> None:
    run(TOOLS / "python", "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path)
    (wheel,) = tmp_path.glob("ipfs_cluster_node-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "ipfs_cluster_node"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(listed.stdout.split()) <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"ipfs_cluster_node"}
