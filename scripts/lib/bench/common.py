"""What benchmarks share: options, lines, medians."""

import argparse
import json
import subprocess
import sys
from typing import Any


def options(description: str) -> argparse.Namespace:
    """Read --quick and --json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a tenth of the load")
    parser.add_argument("--json", action="store_true", help="lines of JSON only")
    return parser.parse_args()


def note(text: str) -> None:
    """Say how far it is, on standard error."""
    print(text, file=sys.stderr, flush=True)


def line(given: argparse.Namespace, **figures: Any) -> None:
    """Print one result."""
    if given.json:
        print(json.dumps(figures), flush=True)
        return
    theirs = figures.get("theirs")
    beside = f", {figures['peer']} {theirs:.4g}, ratio {figures['ratio']:.3g}" if theirs else ""
    print(f"{figures['bench']}: {figures['ours']:.4g} {figures['unit']}{beside}", flush=True)


def etcd_version() -> str:
    """The peer's name and version."""
    said = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True)
    return said.stdout.splitlines()[0].replace("etcd Version: ", "etcd ")
