"""What every test shares."""

import os
import signal
from pathlib import Path

import pytest

VECTORS_VARIABLE = "IPFS_CLUSTER_NODE_VECTORS"
VECTORS_DEFAULT = Path(__file__).parents[2] / "shared" / "vectors"
CASES_VARIABLE = "IPFS_CLUSTER_NODE_CASES"
CASES_DEFAULT = Path(__file__).parents[2] / "shared" / "cases"
SEED_VARIABLE = "IPFS_CLUSTER_NODE_SEED"
SEED_DEFAULT = Path(__file__).parents[2] / "shared" / "design" / "seed.md"


def pytest_configure() -> None:
    """Take SIGINT, which a shell has its background jobs ignore: what they start inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of third-party test vectors; they are read there, never copied in."""
    found = Path(os.environ.get(VECTORS_VARIABLE) or VECTORS_DEFAULT)
    if not found.is_dir():
        pytest.skip(f"no third-party vectors in {found}; name the folder with {VECTORS_VARIABLE}")
    return found


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of inputs that once went wrong; it is read there, never copied in."""
    found = Path(os.environ.get(CASES_VARIABLE) or CASES_DEFAULT)
    if not found.is_dir():
        pytest.skip(f"no cases in {found}; name the folder with {CASES_VARIABLE}")
    return found


@pytest.fixture(scope="session")
def seed() -> Path:
    """The document that started this project; it is read there, never copied in."""
    found = Path(os.environ.get(SEED_VARIABLE) or SEED_DEFAULT)
    if not found.is_file():
        pytest.skip(f"no document {found}; name it with {SEED_VARIABLE}")
    return found


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):  # type: ignore[no-untyped-def]
    """With CI=true a test that needs a third-party program or vectors may not be skipped."""
    outcome = yield
    report = outcome.get_result()
    needed = item.get_closest_marker("tools") or {"vectors", "cases", "seed"} & set(
        getattr(item, "fixturenames", ())
    )
    if report.skipped and os.environ.get("CI") == "true" and needed:
        report.outcome = "failed"
        report.longrepr = f"skipped with CI=true: {report.longrepr}"
