"""A fault run that broke too little fails, since it has tested nothing."""

import random
from typing import Any

import pytest

from scripts.lib.fault.__main__ import too_few
from scripts.lib.fault.scenarios import (
    FAULTS_FIXED,
    SCENARIOS,
    SECONDS_PER_FAULT,
    faults_min,
)
from scripts.lib.fault.scene import Scene
from scripts.lib.fault.switch import Rule, Switch

PACKET = bytes([0x45, *([0] * 18), 3])
"""An IPv4 header to the switch's third port."""


def test_the_tables_name_faults_that_there_are() -> None:
    assert SCENARIOS.keys() >= SECONDS_PER_FAULT.keys() | FAULTS_FIXED.keys()
    assert not SECONDS_PER_FAULT.keys() & FAULTS_FIXED.keys()


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_run_needs_a_fault(name: str) -> None:
    assert faults_min(name, 1) >= 1
    assert faults_min(name, 600) >= faults_min(name, 60) >= faults_min(name, 5)


def test_a_run_with_too_few_faults_is_wrong() -> None:
    assert faults_min("kill", 60) == 10
    assert too_few(9, faults_min("kill", 60))
    assert not too_few(10, faults_min("kill", 60))


def test_a_fault_that_nothing_came_of_is_told() -> None:
    lab: Any = None
    history: Any = None
    scene = Scene(lab, random.Random(1), history, 0.0)
    scene.note_fault()
    scene.check_happened(3, "slow syncs")
    assert not scene.missed
    scene.check_happened(0, "slow syncs")
    assert scene.missed == ["fault 1 did not happen: slow syncs"]


@pytest.mark.parametrize(
    ("rule", "touched"),
    [
        (Rule(loss=1.0), 1),
        (Rule(duplicate=1.0), 1),
        (Rule(delay=0.1), 1),
        (Rule(jitter=0.1), 1),
        (Rule(bytes_per_second=1000.0), 1),
        (Rule(), 0),
    ],
)
def test_the_switch_counts_the_packets_that_a_rule_changes(
    rule: Rule, touched: int, capsys: pytest.CaptureFixture[str]
) -> None:
    switch = Switch([], random.Random(1))
    switch.pass_on(rule, 3, PACKET)
    switch.command(b'{"count": true}')
    switch.command(b'{"count": true}')
    assert capsys.readouterr().out.split() == [str(touched), "0"]
