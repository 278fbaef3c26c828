"""Writes the table of docs/errors.md from errors.proto, which says what reasons mean, and traits.

`--check` changes nothing, and fails where the table is not what would be written.
"""

import re
import sys
from pathlib import Path
from typing import Final

from ipfs_cluster_node.core.errors import Reason, Trait

ROOT: Final = Path(__file__).parents[2]
PROTO: Final = ROOT / "protos/ipfs_cluster_node/v1/errors.proto"
DOCS: Final = ROOT / "docs/errors.md"
HEAD: Final = "| Reason | Status | Repeated | What it means |\n| --- | --- | --- | --- |\n"
VALUE: Final = re.compile(r"((?:  //[^\n]*\n)+)  ERROR_REASON_(\w+) = \d+;")


def meanings() -> dict[str, str]:
    """What each reason means, by errors.proto."""
    found = VALUE.findall(PROTO.read_text())
    return {
        name: " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())
        for comment, name in found
    }


def table() -> str:
    """The table, in the order of `Reason`."""
    told = meanings()
    return HEAD + "".join(
        f"| `{reason}` | `{reason.status}` | {_repeated(reason)} | {told[reason]} |\n"
        for reason in Reason
    )


def _repeated(reason: Reason) -> str:
    if reason.has(Trait.REPEATED):
        return "yes"
    return "elsewhere" if reason.has(Trait.OF_ONE_MASTER) else ""


def main() -> int:
    text = DOCS.read_text()
    begin = text.index(HEAD)
    end = text.index("\n\n", begin) + 1
    written = text[:begin] + table() + text[end:]
    if "--check" in sys.argv:
        if written != text:
            print(f"error: {DOCS.relative_to(ROOT)} is stale; run scripts/gen-protos")
        return int(written != text)
    DOCS.write_text(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
