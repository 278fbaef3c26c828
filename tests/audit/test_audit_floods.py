"""Callers without permissions can't flush out the records of others."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.audit import files
from ipfs_cluster_node.adapters.audit.files import FileAuditLog
from ipfs_cluster_node.core.audit import AuditQuery, AuditRecord, Outcome
from tests.support.virtual_time import loop_clock


def record(at_ms: int, **fields: Any) -> AuditRecord:
    given: dict[str, Any] = {
        "at_ms": at_ms,
        "caller": "A",
        "caller_class": "client",
        "peer": "ipv4:192.0.2.1:1",
        "method": "/s/M",
        "command": "",
        "outcome": Outcome.ALLOWED,
    }
    return AuditRecord(**(given | fields))


def denied(at_ms: int, **fields: Any) -> AuditRecord:
    return record(at_ms, **{"outcome": Outcome.DENIED, "reason": "NOT_DELEGATED: no"} | fields)


def written(path: Path, *records: AuditRecord) -> list[AuditRecord]:
    async def main() -> list[AuditRecord]:
        log = FileAuditLog(path, clock=loop_clock())
        log.start()
        for each in records:
            log.record(each)
        await log.stop()
        return list(await FileAuditLog(path, clock=loop_clock()).read(AuditQuery(size=10_000)))

    return asyncio.run(main())


@pytest.mark.parametrize(
    "flood",
    [
        {"outcome": Outcome.DENIED},
        {"outcome": Outcome.FAILED, "caller_class": "joiner", "reason": "INVALID_ARGUMENT: no"},
    ],
)
def test_denials_push_out_nothing_that_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flood: dict[str, Any]
) -> None:
    monkeypatch.setattr(files, "FILE_BYTES_MAX", 2000)
    monkeypatch.setattr(files, "DENIED_FILE_BYTES_MAX", 2000)
    path = tmp_path / "audit.jsonl"
    written(path, record(1, request_id="done"))
    for number in range(40):
        found = written(path, denied(2 + number, caller=f"B{number}", **flood))
    assert [each.request_id for each in found if each.request_id] == ["done"]
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) < 3 * 2500


def test_repeated_denials_are_one_record_that_counts_them(tmp_path: Path) -> None:
    floods = [denied(n, caller=who) for n in range(1, 501) for who in ("A", "B")]
    found = written(tmp_path / "audit.jsonl", *floods, denied(501, method="/s/Other"))
    assert len(found) == 5
    of_a = [each for each in found if (each.caller, each.method) == ("A", "/s/M")]
    assert [each.at_ms for each in of_a] == [500, 1]
    assert of_a[0].reason == "NOT_DELEGATED: no (and 498 more within 10 s)"
    assert of_a[1].reason == "NOT_DELEGATED: no"


def test_who_is_nobody_is_counted_by_address(tmp_path: Path) -> None:
    peers = [f"ipv4:192.0.2.{n % 2}:{4000 + n}" for n in range(100)]
    knocks = [denied(n, caller="", peer=peer) for n, peer in enumerate(peers)]
    assert len(written(tmp_path / "audit.jsonl", *knocks)) == 4


def test_after_a_while_denials_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "REPEATS_SECONDS", 0.0)
    assert len(written(tmp_path / "audit.jsonl", *(denied(n) for n in range(5)))) == 5


def test_callers_that_are_counted_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "REPEATS_MAX", 3)
    log = FileAuditLog(tmp_path / "audit.jsonl", clock=loop_clock())
    for number in range(20):
        log.record(denied(number, caller=f"{number}"))
        log.record(denied(number, caller=f"{number}"))
    assert len(log._repeats._counted) == 3
    assert len(log._denials.waiting) == 20 + 17


def test_both_kinds_are_read_by_time_with_one_count_and_pages(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    mixed = [denied(n, caller=f"{n}") if n % 3 else record(n) for n in range(30)]
    found = written(path, *mixed)
    assert [each.at_ms for each in found] == list(range(29, -1, -1))
    assert [each.sequence for each in found] == list(range(30, 0, -1))
    pages: list[AuditRecord] = []
    before = 0
    while page := asyncio.run(
        FileAuditLog(path, clock=loop_clock()).read(AuditQuery(before_sequence=before, size=7))
    ):
        pages += page
        before = page[-1].sequence
    assert pages == found
    assert written(path, record(99))[0].sequence == 31
