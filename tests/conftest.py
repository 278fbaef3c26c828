"""What every test shares."""

import os

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):  # type: ignore[no-untyped-def]
    """With CI=true a test that needs a third-party program may not be skipped."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and item.get_closest_marker("tools"):
        report.outcome = "failed"
        report.longrepr = f"skipped with CI=true: {report.longrepr}"
