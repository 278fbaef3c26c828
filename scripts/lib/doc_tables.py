"""Writes the tables of the docs that other sources declare.

docs/errors.md: reasons, from errors.proto, which says what they mean, and their traits; those of
commands alone, from core/errors.py.
docs/authorization.md: methods, from the option `rule` of each; grants, from core/authorization.py.
docs/other-languages.md: columns of the tables of the state, from codec/arrow_tables.py.

`--check` changes nothing, and fails where a table is not what would be written.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.rules import RULES_BY_METHOD, Rule
from ipfs_cluster_node.codec.arrow_tables import ARROW_SCHEMAS
from ipfs_cluster_node.core.authorization import GRANTS
from ipfs_cluster_node.core.errors import LOCAL_REASONS, Reason, Trait
from ipfs_cluster_node.core.ucan.commands import TOP

ROOT: Final = Path(__file__).parents[2]
PROTO: Final = ROOT / "protos/ipfs_cluster_node/v1/errors.proto"
VALUE: Final = re.compile(r"((?:  //[^\n]*\n)+)  ERROR_REASON_(\w+) = \d+;")

REASONS_HEAD: Final = "| Reason | Status | Repeated | What it means |\n| --- | --- | --- | --- |\n"
LOCAL_HEAD: Final = "| Of a command alone | What it means |\n| --- | --- |\n"
GRANTS_HEAD: Final = "| Grant | Commands |\n| --- | --- |\n"
COLUMNS_HEAD: Final = "| Table | Column | Arrow type |\n| --- | --- | --- |\n"
METHODS_HEAD: Final = "| Method | Callers | Command | Judged on |\n| --- | --- | --- | --- |\n"


def meanings() -> dict[str, str]:
    """What each reason means, by errors.proto."""
    found = VALUE.findall(PROTO.read_text())
    return {
        name: " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())
        for comment, name in found
    }


def reasons() -> str:
    """The rows of the reasons, in the order of `Reason`."""
    told = meanings()
    return "".join(
        f"| `{reason}` | `{reason.status}` | {_repeated(reason)} | {told[reason]} |\n"
        for reason in Reason
        if reason not in LOCAL_REASONS
    )


def local_reasons() -> str:
    """The rows of the reasons that no call carries."""
    return "".join(f"| `{reason}` | {meaning} |\n" for reason, meaning in LOCAL_REASONS.items())


def _repeated(reason: Reason) -> str:
    if reason.has(Trait.RETRYABLE):
        return "yes"
    return "elsewhere" if reason.has(Trait.MASTER_LOCAL) else ""


def grants() -> str:
    """The rows of what a client may be granted when it joins."""
    rows = []
    for name, commands in GRANTS.items():
        told = ("everything" if command == TOP else f"`{command}`" for command in commands)
        rows.append(f"| `{name}` | {', '.join(told) or 'nothing'} |\n")
    return "".join(rows)


def methods() -> str:
    """The rows of the methods, by name; clients' without their package."""
    by_name = {
        method.removeprefix("/").removeprefix("ipfs_cluster_node.").removeprefix("v1."): rule
        for method, rule in RULES_BY_METHOD.items()
    }
    return "".join(
        f"| `{name}` | {_callers(rule)} | {_judged(rule)} |\n"
        for name, rule in sorted(by_name.items(), key=lambda each: each[0].lower())
    )


def _callers(rule: Rule) -> str:
    # Of clients everybody knows that they are judged by delegations.
    judged = (rule.callers & rule.delegated) - {CallerClass.CLIENT}
    classes = ", ".join(sorted(rule.callers - judged))
    return "; ".join([classes, *(f"{each} with a delegation" for each in sorted(judged))])


def _judged(rule: Rule) -> str:
    if rule.decides_itself:
        return "the method decides; see [above](#how-a-call-is-judged) | "
    if rule.command is None:
        return "none: the class is enough | "
    return f"`{rule.command}` | {'the request' if rule.required else 'each item shown'}"


def columns() -> str:
    """The rows of the columns of each table of the state, in their order."""
    return "".join(
        f"| `{schema.metadata[b'table'].decode()}` | `{field.name}` | {field.type} |\n"
        for schema in ARROW_SCHEMAS.values()
        for field in schema
    )


TABLES: Final[tuple[tuple[str, str, Callable[[], str]], ...]] = (
    ("docs/errors.md", REASONS_HEAD, reasons),
    ("docs/errors.md", LOCAL_HEAD, local_reasons),
    ("docs/authorization.md", GRANTS_HEAD, grants),
    ("docs/authorization.md", METHODS_HEAD, methods),
    ("docs/other-languages.md", COLUMNS_HEAD, columns),
)


def main() -> int:
    stale = 0
    for docs, head, rows in TABLES:
        text = (ROOT / docs).read_text()
        begin = text.index(head)
        end = text.index("\n\n", begin) + 1
        written = text[:begin] + head + rows() + text[end:]
        if written == text:
            continue
        if "--check" in sys.argv:
            print(f"error: {docs} is stale; run scripts/gen-protos")
            stale = 1
        else:
            (ROOT / docs).write_text(written)
    return stale


if __name__ == "__main__":
    sys.exit(main())
