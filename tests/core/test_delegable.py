"""A delegation that could never apply is refused before it is signed."""

import pytest

from ipfs_cluster_node.core.delegable import check_delegable
from ipfs_cluster_node.core.ucan.commands import Command


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("/task/submit", ["namespace", "priority"]),
        ("/task", ["owner"]),
        ("/task", ["priority"]),
        ("/", []),
        ("/", ["uses"]),
        ("/admin/enrol", ["needs_approval"]),
    ],
)
def test_a_command_or_what_is_above_it_can_be_delegated(command: str, named: list[str]) -> None:
    check_delegable(Command(command), named, named)


@pytest.mark.parametrize(
    ("command", "named", "said"),
    [
        ("/task/sumbit", [], "no command /task/sumbit; did you mean /task/submit.*/task/read"),
        ("/task/submit/x", [], "no command"),
        ("/zzz", [], "no command /zzz; there are /admin/audit/read"),
        ("/task/submit", ["namspace"], "no argument namspace; did you mean namespace.*priority"),
        ("/task", ["cid"], "/task has no argument cid; there are"),
        ("/", ["priority", "cid"], "no command under / has all of cid, priority"),
    ],
)
def test_what_could_never_apply_is_refused(command: str, named: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_delegable(Command(command), named, named)
