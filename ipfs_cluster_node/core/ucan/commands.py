"""Commands: lower-case paths, each covering all below it.

Source: ucan-wg/spec, "Command".
"""

from typing import Final, NewType

from ipfs_cluster_node.core.ucan.errors import malformed

Command = NewType("Command", str)
"""Such as `/task/submit`; `/` covers everything."""

TOP: Final = Command("/")


def parse_command(text: str, *, chars_max: int) -> Command:
    """Check `text` and return it as a command.

    Raises:
        UcanError: Malformed: over `chars_max` characters, not lower case, without its leading
            slash, with a trailing one, or with an empty segment.
    """
    if not text or len(text) > chars_max:
        raise malformed(f"a command has 1 to {chars_max} characters")
    if not text.startswith("/") or text != text.lower():
        raise malformed("a command is lower case and begins with a slash")
    if text != TOP and (text.endswith("/") or "//" in text):
        raise malformed("a command has no empty segment")
    return Command(text)


def covers(granted: Command, asked: Command) -> bool:
    """Whether `granted` is `asked` or a path above it, by whole segments."""
    return granted in (TOP, asked) or asked.startswith(granted + "/")
