"""Looks for known vulnerabilities of what a node installs: `advisories.py PIP_AUDIT REQUIREMENTS`.

Exit codes: 0 none is known, 1 some are, 77 nobody could be asked about any or some of them.
"""

import json
import subprocess
import sys
from typing import Final

SECONDS_MAX: Final = 120
SKIPPED: Final = 77


def main(pip_audit: str, requirements: str) -> int:
    """Run pip-audit; what it could not look up counts as not looked at, and not as safe."""
    options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json")
    try:
        done = subprocess.run(
            [pip_audit, "-r", requirements, *options],
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
        dependencies = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print("no service of advisories answers")
        return SKIPPED
    known = [(each, found) for each in dependencies for found in each.get("vulns", ())]
    for each, found in known:
        fixed = ", ".join(found.get("fix_versions", ())) or "no version"
        print(f"{each['name']} {each['version']}: {found['id']}, fixed in {fixed}")
    if known:
        return 1
    unknown = [each["name"] for each in dependencies if "skip_reason" in each]
    if unknown:
        print(f"{len(unknown)} of {len(dependencies)} packages are not known to the service")
        return SKIPPED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
