"""The commands that README, the docs and the help texts print."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from ipfs_cluster_node.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
PROGRAM = "ipfs-cluster-node"
PAGES = [
    ROOT / "README.md",
    ROOT / "clients" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def in_pages() -> list[tuple[str, list[str]]]:
    """Each command of a page: the page's name, and the words after the program's."""
    return [(page.name, words) for page in PAGES for words in _in(page.read_text())]


def in_blocks() -> list[tuple[str, list[str]]]:
    """Each command of the pages' blocks of code: what a reader would copy into a shell."""
    found = []
    for page in PAGES:
        indented = re.findall(r"(?m)(?:^ {4}.*\n)+", page.read_text())
        fenced = re.findall(r"(?ms)^```\w*\n(.*?)^```", page.read_text())
        found += [(page.name, words) for code in (*indented, *fenced) for words in _called(code)]
    return found


def in_help() -> list[tuple[str, list[str]]]:
    """Each command of a help text: the command that has the text, and the words."""
    found = []
    for path, command in commands():
        context = click.Context(command, info_name=" ".join((PROGRAM, *path)))
        text = command.get_help(context).partition("\n")[2]  # The first line is the usage.
        found += [(" ".join(path), words) for words in _in(text)]
    return found


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and group, with the words that call it."""
    waiting: list[tuple[tuple[str, ...], click.Command]] = [((), main)]
    while waiting:
        path, command = waiting.pop()
        yield path, command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                waiting.append(((*path, name), below))


def _in(text: str) -> Iterator[list[str]]:
    yield from _called(text)
    for code in re.findall(r"`([a-z]+(?: [^`\n]+)?)`", text):
        words = _words(code)
        group = main.get_command(click.Context(main), words[0]) if words else None
        if isinstance(group, click.Group) and len(words) > 1:
            yield words


def _called(text: str) -> Iterator[list[str]]:
    """Those that follow the program's name."""
    text = re.sub(r"\\\n\s*", " ", text)
    for line in re.findall(rf"\b{PROGRAM} ([a-z][^\n]*)", text):
        words = _words(line)
        if words and words[0] in COMMANDS:
            yield words


def _words(line: str) -> list[str]:
    """The words of the first command of a line of shell; none of prose."""
    line = line.split("`", maxsplit=1)[0]
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for word in lexer:
            if set(word) <= set("|&;<>()") or word.startswith("["):
                break  # In brackets is what may be left out, or a reason.
            words.append(word)
    except ValueError:
        return []
    return words
