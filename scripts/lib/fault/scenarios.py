"""What is done to the nodes, by name; rows of the reliability table in docs/consensus.md."""

from typing import Final

from scripts.lib.fault.disks import (
    control_lying_disk,
    crashpoints,
    damage,
    diskerror,
    diskfull,
    powerloss,
    slowdisk,
)
from scripts.lib.fault.links import (
    control_stale_reads,
    cut,
    delay,
    duplicate,
    loss,
    members,
    members_cut,
    oneway,
    partial,
    slowlink,
)
from scripts.lib.fault.processes import clock, kill, kill_all, stop
from scripts.lib.fault.removals import removals
from scripts.lib.fault.watch import watch

SCENARIOS: Final = {
    "kill": kill,
    "kill-all": kill_all,
    "powerloss": powerloss,
    "stop": stop,
    "diskfull": diskfull,
    "diskerror": diskerror,
    "slowdisk": slowdisk,
    "crashpoints": crashpoints,
    "damage": damage,
    "clock": clock,
    "cut": cut,
    "oneway": oneway,
    "partial": partial,
    "loss": loss,
    "delay": delay,
    "duplicate": duplicate,
    "slowlink": slowlink,
    "members": members,
    "members-cut": members_cut,
    "watch": watch,
    "removals": removals,
    "control-stale-reads": control_stale_reads,
    "control-lying-disk": control_lying_disk,
}
NEED_NET: Final = frozenset(
    {"cut", "oneway", "partial", "loss", "delay", "duplicate", "slowlink", "members-cut"}
    | {"watch", "control-stale-reads"}
)
NEED_DISKS: Final = frozenset({"powerloss", "diskfull", "control-lying-disk"})
NEED_STRACE: Final = frozenset({"diskerror", "slowdisk", "crashpoints"})
DAMAGING: Final = frozenset({"damage", "control-lying-disk"})
"""After which a node may find its log damaged."""
CONTROLS: Final = frozenset(name for name in SCENARIOS if name.startswith("control-"))
SECONDS_PER_FAULT: Final = {
    "kill": 6.0,
    "kill-all": 10.0,
    "powerloss": 10.0,
    "stop": 20.0,
    "diskfull": 30.0,
    "diskerror": 15.0,
    "crashpoints": 10.0,
    "damage": 15.0,
    "clock": 20.0,
    "cut": 12.0,
    "partial": 12.0,
    "members": 6.0,
    "members-cut": 12.0,
    "watch": 12.0,
    "removals": 25.0,
}
"""The longest that one fault takes with what follows it, also on a busy machine."""
FAULTS_FIXED: Final = {"oneway": 4, "slowdisk": 4, "loss": 2}
"""How many there are in one run, however long it is; one where neither table names it."""


def faults_min(name: str, seconds: float) -> int:
    """How many faults a run of so many seconds must have seen: with fewer it tested nothing."""
    if name in SECONDS_PER_FAULT:
        return max(1, int(seconds / SECONDS_PER_FAULT[name]))
    return FAULTS_FIXED.get(name, 1)
