"""docs/configuration.md says of each setting what the code does."""

from pathlib import Path

from ipfs_cluster_node.core.settings import SETTINGS


def rows() -> list[str]:
    return [
        f"| `{each.key}` | {each.kind} | {each.default} | {each.minimum} | {each.maximum} | "
        f"{each.description} |"
        for each in SETTINGS.values()
    ]


def test_the_table_has_every_setting_with_its_range() -> None:
    lines = Path("docs/configuration.md").read_text("utf-8").splitlines()
    assert [line for line in lines if line.startswith("| `")] == rows()
