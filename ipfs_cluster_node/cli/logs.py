"""Logs: one JSON line per record, on standard error."""

import logging
import sys
from datetime import UTC, datetime
from typing import Final

from ipfs_cluster_node.core.printable import json_text, printable

FIELD_CHARS_MAX: Final = 2048

_KNOWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """Fixed message, then its fields; control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as one line of JSON."""
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:FIELD_CHARS_MAX],
        }
        for key, value in vars(record).items():
            if key not in _KNOWN:
                plain = value if isinstance(value, int | float | bool) else str(value)
                document[key] = plain[:FIELD_CHARS_MAX] if isinstance(plain, str) else plain
        if record.exc_info:
            document["trace"] = self.formatException(record.exc_info)
        return json_text(document)


class PlainFormatter(logging.Formatter):
    """Plain lines for commands that set up no JSON log."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record and its traceback, with control sequences escaped."""
        return printable(super().format(record), keep="\n")


def set_up_plain_logging() -> None:
    """Show warnings as plain lines until another log is set up."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter())


def set_up_logging(level: str) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("grpc").setLevel(logging.WARNING)
