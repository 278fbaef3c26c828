"""`buf breaking` refuses what would break stubs that somebody made, by the rules of `protos/buf.yaml`."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.protos import PROTOS

BUF: Final = Path(sys.executable).parent / "buf"
HEALTH: Final = "ipfs_cluster_node/v1/health.proto"
WORKER: Final = "ipfs_cluster_node/worker/v1/worker.proto"
BREAKS: Final = {
    "a field is gone": (HEALTH, "  string version = 4;\n", ""),
    "a number means another field": (HEALTH, "string version = 4;", "string release = 4;"),
    "a type differs": (HEALTH, "string version = 4;", "bytes version = 4;"),
    "a file is in another Go package": (HEALTH, "/v1;clusterv1", "/v1;healthv1"),
    "a file is in another Java package": (WORKER, '"alt.', '"com.'),
    "a method is gone": (WORKER, "rpc WorkerSession(", "rpc Session("),
    "a message is gone": (HEALTH, "RaftHealth", "LogHealth"),
}
ADDED: Final = (HEALTH, "  string version = 4;\n", "  string version = 4;\n  string build = 99;\n")


def buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BUF, *arguments], capture_output=True, text=True, check=False)


def change(protos: Path, file: str, before: str, after: str) -> None:
    text = (protos / file).read_text()
    assert before in text
    (protos / file).write_text(text.replace(before, after))


@pytest.fixture
def protos(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PROTOS, tmp_path / "protos"))


@pytest.fixture(scope="module")
def agreed(tmp_path_factory: pytest.TempPathFactory) -> str:
    image = str(tmp_path_factory.mktemp("agreed") / "agreed.binpb")
    assert buf("build", str(PROTOS), "--exclude-source-info", "-o", image).returncode == 0
    return image


@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_stubs_is_refused(name: str, protos: Path, agreed: str) -> None:
    change(protos, *BREAKS[name])
    assert buf("build", str(protos)).returncode == 0
    refused = buf("breaking", str(protos), "--against", agreed)
    assert refused.returncode != 0
    assert BREAKS[name][0] in refused.stdout


def test_what_is_added_breaks_nothing(protos: Path, agreed: str) -> None:
    change(protos, *ADDED)
    assert buf("breaking", str(protos), "--against", agreed).returncode == 0
