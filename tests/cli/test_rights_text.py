"""What `auth whoami` says, and what is said of a list that is empty for want of rights."""

import asyncio
from dataclasses import replace
from typing import Any

from ipfs_cluster_node.cli.rights_text import (
    command_words,
    held_under,
    rights_lines,
    say_if_limited,
)
from ipfs_cluster_node.codec.delegations import delegation_to_proto
from ipfs_cluster_node.codec.ucan import TokenReader, open_envelope
from ipfs_cluster_node.codec.ucan_mint import sign_delegation
from ipfs_cluster_node.codec.views import DELEGATION
from ipfs_cluster_node.core import authorization as auth
from ipfs_cluster_node.core.denials import Held
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.profiles import PRODUCT
from ipfs_cluster_node.core.views import CallerStatus, ListedDelegation
from tests.support.ucan import actor

CLUSTER, BOB, ANNA = (actor(n) for n in (1, 2, 3))
END_S = 1_900_000_000


def given(command: str, *policy: Any, issuer: Any = CLUSTER) -> ListedDelegation:
    token = sign_delegation(
        issuer.key,
        audience=ANNA.did,
        subject=CLUSTER.did,
        command=Command(command),
        policy=[list(each) for each in policy],
        expires_s=END_S,
    )
    delegation = TokenReader(PRODUCT).delegation(open_envelope(token, profile=PRODUCT))
    return DELEGATION.decode(delegation_to_proto(delegation, token))


def anna(*delegations: ListedDelegation) -> CallerStatus:
    return CallerStatus(
        did=ANNA.did,
        caller_class="client",
        name="anna",
        cluster_did=CLUSTER.did,
        delegations=delegations,
    )


def said(caller: CallerStatus) -> list[str]:
    return list(rights_lines(caller))


def test_rights_are_said_in_words() -> None:
    limit = ("like", ".namespace", "team-a/*")
    lines = said(
        anna(
            given("/task/read", limit),
            given("/content", limit),
            given("/cluster/member/list"),
            given("/task/submit", ("<=", ".priority", 3), issuer=BOB),
        )
    )
    assert lines[0] == f"You are anna, a client: {ANNA.did}"
    assert lines[1].startswith("You may, until 2030-")
    assert lines[2:5] == [
        "  read tasks in team-a/*",
        "  add, keep, read and remove files in team-a/*",
        "  list nodes",
    ]
    assert lines[5].endswith(f", as far as {BOB.did} may:")
    assert lines[6:] == ["  submit tasks within further conditions (see -v)"]


def test_revoked_ones_and_those_of_others_are_not_ones_own() -> None:
    revoked = replace(given("/task/read"), revoker_dids=(CLUSTER.did,))
    others = replace(given("/task/cancel"), audience=BOB.did)
    assert said(anna(revoked, others))[1:] == [
        "You may do nothing yet; ask an operator for `token delegate`, with your name or DID."
    ]
    assert held_under(anna(revoked, others), auth.TASK_READ) is None


def test_a_node_may_what_its_role_says() -> None:
    node = CallerStatus(did=BOB.did, caller_class="master", name="m1")
    assert said(node)[1:] == ["What a node may do is in its role, not delegated."]


def test_a_command_covers_all_below_it() -> None:
    assert command_words(Command("/")) == "do everything"
    assert command_words(Command("/task")) == "cancel, read and submit tasks"
    assert command_words(Command("/x")) == "use /x"


def hints_of(found: list[str], caller: CallerStatus, capsys: Any) -> str:
    class Asked:
        async def get_caller(self) -> CallerStatus:
            return caller

    asyncio.run(say_if_limited(Asked(), found, auth.TASK_READ))
    return str(capsys.readouterr().err)


def test_an_empty_list_says_that_it_is_limited(capsys: Any) -> None:
    limited = anna(given("/task", ("==", ".namespace", "team-a")))
    assert held_under(limited, auth.TASK_READ) == Held(auth.TASK_READ, ("team-a",))
    wanted = "you see only tasks that you may read: in team-a\n"
    assert hints_of([], limited, capsys) == wanted
    assert hints_of(["a task"], limited, capsys) == ""
    assert hints_of([], anna(given("/task")), capsys) == ""
    assert hints_of([], anna(given("/task"), *limited.delegations), capsys) == ""
