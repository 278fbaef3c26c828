"""Fails where something is declared that no code uses: not the product, a script or a test.

Vulture looks at names: what only a library calls is named in `pyproject.toml`.
"""

import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from vulture import Vulture

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("ipfs_cluster_node", "scripts", "tests", "clients")
GENERATED: Final = ("_pb2.py", "_pb2_grpc.py", ".pyi")
CONFIDENCE_MIN: Final = 60
"""Vulture's own for functions, classes, attributes and variables."""


def main() -> int:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dead_code"]
    vulture = Vulture(
        ignore_names=settings["used_by_libraries"], ignore_decorators=settings["decorators"]
    )
    vulture.scavenge([str(ROOT / package) for package in PACKAGES])
    dead = [
        item
        for item in vulture.get_unused_code(min_confidence=CONFIDENCE_MIN)
        if _is_ours(item, set(settings["called_by_name"]))
    ]
    for item in dead:
        print(f"{_path(item)}:{item.first_lineno}: unused {item.typ} {item.name!r}")
    return 1 if dead else 0


def _is_ours(item: Any, called_by_name: set[str]) -> bool:
    path = _path(item)
    if path.startswith("tests/") or path.endswith(GENERATED):
        return False
    return not (path in called_by_name and item.name.startswith("_"))


def _path(item: Any) -> str:
    return str(item.filename.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
