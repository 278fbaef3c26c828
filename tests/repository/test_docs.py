"""The docs speak of what is there."""

import re
from pathlib import Path

import pytest

from ipfs_cluster_node.core.errors import Exit, Reason

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ipfs_cluster_node"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
NAMED = re.findall(r"`([^`]*::[^`]*)`", (ROOT / "docs/request-paths.md").read_text())


@pytest.mark.parametrize("named", sorted(set(NAMED)))
def test_every_name_of_the_request_paths_exists(named: str) -> None:
    # All that looks like a name is taken, so that a misspelled path can't be passed over.
    match = re.fullmatch(r"([\w/]+\.py)::(\w+)", named)
    assert match is not None
    path, name = match.groups()
    source = (ROOT / path).read_text()
    assert re.search(rf"^\s*(async def|def|class) {name}\b|^{name}\b", source, re.MULTILINE)


def test_every_file_of_the_steps_for_contributors_exists() -> None:
    words = re.findall(r"`([^`\s]+)`|(docs/[\w/-]+\.md)", CONTRIBUTING)
    names = {name for pair in words for name in pair}
    files = {name for name in names if re.search(r"\.(py|proto|md)$|^[^/]+/", name)}
    assert len(files) > 25
    assert [f for f in files if not any(any(room.glob(f)) for room in (ROOT, PACKAGE))] == []


def test_there_are_steps_for_each_kind_of_change() -> None:
    for kind in (
        "RPC",
        "replicated table",
        "replicated row",
        "metric",
        "Arrow view",
        "error reason",
    ):
        assert re.search(rf"^## To add .*{kind}", CONTRIBUTING, re.MULTILINE), kind


def test_every_test_file_of_the_docs_exists() -> None:
    pages = [CONTRIBUTING, *(page.read_text() for page in (ROOT / "docs").rglob("*.md"))]
    named = {name for page in pages for name in re.findall(r"`(tests/[\w/.*-]+)`", page)}
    assert len(named) > 30
    assert [name for name in sorted(named) if not any(ROOT.glob(name))] == []


def test_every_reason_and_exit_status_is_documented() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    assert [r for r in Reason if f"| `{r.value}` |" not in text] == []
    assert [s for s in Exit if f"| {s} |" not in text] == []


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_test_of_the_security_docs_exists() -> None:
    text = (ROOT / "docs/security-testing.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 30
    assert [name for name in sorted(named) if f"def {name}(" not in sources] == []
