"""DuckDB's errors as one line: the cause and the place, inputs by name, never a path. Pure."""

import re
from collections.abc import Mapping
from typing import Final

MESSAGE_CHARS_MAX: Final = 500
OTHER_FIELDS: Final = (
    "{1} field(s) instead of {0}: give each line the same fields, and put those with a delimiter"
    ' or a line end in them in double quotes (")'
)
OPEN_QUOTE: Final = 'a double quote is not closed, or text follows it: write " within a field as ""'
NOT_UTF_8: Final = (
    "it is not in the encoding UTF-8: save the file as UTF-8, if it is in Windows-1252 by"
    " iconv -f WINDOWS-1252 -t UTF-8"
)
LONG_LINE: Final = "it is longer than {0} bytes, perhaps because a double quote is not closed"
ADVICE: Final = (
    "Possible fixes",
    "Possible solution",
    "Possible Solution",
    "file = ",
    "Stack Trace",
    "Try ",
)
"""Start of DuckDB's own advice, which is about options that a task lacks; cut off there."""
EXCERPT: Final = re.compile(r"LINE \d+: (.*)")
LINE_ERROR: Final = re.compile(r"CSV Error on Line: (\d+)")
CAUSES: Final = (
    (re.compile(r"Expected Number of Columns: (\d+) Found: (\d+)"), OTHER_FIELDS),
    (re.compile("unterminated quote"), OPEN_QUOTE),
    (re.compile("not utf-8 encoded"), NOT_UTF_8),
    (re.compile(r"Maximum line size of (\d+) bytes exceeded"), LONG_LINE),
)


def said(error: Exception, names: Mapping[str, str], sql: str = "") -> str:
    """DuckDB's error on one line, with the name of each path, and its place in the query `sql`."""
    text = str(error).strip() or type(error).__name__
    # Longest first: a directory is a prefix of the paths in it.
    longest_first = sorted(names.items(), key=lambda pair: -len(pair[0]))
    of = next((name for path, name in longest_first if path in text), "")
    for path, name in longest_first:
        text = text.replace(f'"{path}"', name).replace(f"'{path}'", name).replace(path, name)
    if found := LINE_ERROR.search(text):
        return _cut(f"{of}: line {found[1]}: {_cause(text)}" if of else _cause(text))
    if "state machine reached an invalid state" in text:
        return _cut(
            f"{of}: its lines end in different ways, or its quotes are not those of CSV: end each"
            ' line alike, and write " within a field as ""'
        )
    return _cut(_sentence(text, sql))


def _cause(text: str) -> str:
    for pattern, words in CAUSES:
        if found := pattern.search(text):
            return words.format(*found.groups())
    lines = [line for line in _without_advice(text) if not line.startswith("Original Line")]
    return "; ".join(lines[1:] or lines)


def _sentence(text: str, sql: str) -> str:
    lines = _without_advice(text)
    place = ""
    for n, line in enumerate(lines):
        if found := EXCERPT.match(line):
            caret = lines[n + 1].find("^") if n + 1 < len(lines) else -1
            place = _place(found[1], caret - found.start(1), sql)
            del lines[n:]
            break
    return "; ".join(line.strip() for line in lines) + place


def _place(excerpt: str, caret: int, sql: str) -> str:
    """The excerpt's place in the query; DuckDB counts in the text that wraps the query."""
    part = excerpt.strip().removeprefix("...").removesuffix("...")
    for n, line in enumerate(sql.splitlines(), start=1):
        if part and (start := line.find(part)) >= 0 and caret >= 0:
            return f" (line {n}, column {start + caret - excerpt.find(part) + 1})"
    return ""


def _without_advice(text: str) -> list[str]:
    lines = []
    for line in text.replace(" Try auto", "\nTry auto").splitlines():
        if line.strip().startswith(ADVICE):
            break
        if line.strip():
            lines.append(line)
    return lines or ["no words"]


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_CHARS_MAX else text[: MESSAGE_CHARS_MAX - 1] + "…"
