"""How the search for known vulnerabilities tells what it found; what pip-audit says is made up."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "lib" / "advisories.py"
SAFE = {"name": "b", "version": "1", "vulns": []}
KNOWN = {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ({"dependencies": [SAFE]}, 0, ""),
        ({"dependencies": [SAFE, KNOWN, UNKNOWN]}, 1, "a 1: PYSEC-1, fixed in 2"),
        # Never said to be safe where nobody looked.
        ({"dependencies": [SAFE, UNKNOWN]}, 77, "1 of 2"),
        ("no JSON", 77, "no service"),
    ],
)
def test_what_was_not_looked_at_does_not_count_as_safe(
    said: Any, code: int, words: str, tmp_path: Path
) -> None:
    pip_audit = tmp_path / "pip-audit"
    text = said if isinstance(said, str) else json.dumps(said)
    pip_audit.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    pip_audit.chmod(0o700)
    done = subprocess.run(
        [sys.executable, SCRIPT, pip_audit, "requirements.txt"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, words in done.stdout) == (code, True), done.stdout
