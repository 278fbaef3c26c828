"""The words of the project: the glossary of CONTRIBUTING.md, and words that are no longer used."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ipfs_cluster_node"
GLOSSARY = (ROOT / "CONTRIBUTING.md").read_text().split("## Glossary\n")[1].split("\n## ")[0]
ROWS = re.findall(r"^\| ([^|`]+) \| ([^|]+) \| ((?:`\w+`(?:, )?)+) \|$", GLOSSARY, re.MULTILINE)

RETIRED = frozenset(
    "Ask Asks AsksOf Asking Reach Unbounded OfAttempt Gone Brought Presented Circumstances Grant"
    " Leadership ClusterMachine Windows Freshness WritePace hurry hurries circumstances Rest Copies"
    " Speaker let_knock unlist hoarded refuse_taken of_themselves judged_items".split()
)
"""Names of classes, functions and variables that were replaced by the field's terms."""

IDIOMS = re.compile(
    r"\banew\b|\b(counts?|holds?|lets?) no more\b(?! than)|\b(is|are|was|were) let\b"
    r"|\bWanted are\b|(\"\"\"|# )Else [a-z]|\bnot any longer\b|\bof then\b|\b[Mm]end(s|ed|ing)?\b|\blets? nobody\b|\bno way back\b"
)
"""English that mirrors another language. Each has a plain form, such as "again" or "is revoked"."""


def sources() -> Iterator[tuple[Path, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if "_pb2" not in path.name:
            yield path, path.read_text()


def test_the_glossary_names_what_exists() -> None:
    text = "\n".join(source for _, source in sources())
    defined = set(re.findall(r"^class (\w+)|^(\w+) = NewType\(", text, re.MULTILINE))
    names = {name for pair in defined for name in pair}
    lines = [line for line in GLOSSARY.splitlines() if line.startswith("| ")][2:]
    assert len(ROWS) == len(lines) >= 30
    terms = [term for term, _, _ in ROWS]
    assert terms == sorted(terms, key=str.lower)
    assert [n for *_, named in ROWS for n in re.findall(r"\w+", named) if n not in names] == []


def test_retired_names_do_not_come_back() -> None:
    found = []
    for path, source in sources():
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.arg(arg=name):
                    pass
                case ast.AsyncFunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                    pass
                case _:
                    continue
            if name.strip("_") in RETIRED:
                found.append(f"{path.name}: {name}")
    assert found == []


def test_texts_are_plain_english() -> None:
    pages = [*(ROOT / "protos").rglob("*.proto"), *(ROOT / "docs").rglob("*.md")]
    pages += [ROOT / "CONTRIBUTING.md", *(ROOT / "tests").rglob("*.py")]
    pages.remove(Path(__file__))
    found = [
        f"{path.relative_to(ROOT)}:{n}: {line.strip()}"
        for path in [*(p for p, _ in sources()), *pages]
        for n, line in enumerate(path.read_text().splitlines(), 1)
        if IDIOMS.search(line)
    ]
    assert found == []
