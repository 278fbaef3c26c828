"""What people read of a denial."""

from typing import Any

import pytest

from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from ipfs_cluster_node.core import authorization as auth
from ipfs_cluster_node.core.denials import WORDS, Held, alike, denial, held_by
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import DAG_CBOR, cid_of
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.policies import parse_policy
from ipfs_cluster_node.core.ucan.profiles import PRODUCT
from ipfs_cluster_node.core.ucan.tokens import Delegation

ANNA = Did("did:key:z6MkAnna")
ASK = "; ask an operator: ipfs-cluster-node token delegate did:key:z6MkAnna "
TEAM = "team-a/*"


def link(*policy: Any) -> Delegation:
    return Delegation(
        cid=cid_of(DAG_CBOR, b"x"),
        issuer=ANNA,
        audience=ANNA,
        subject=ANNA,
        command=auth.TASK_READ,
        policy=parse_policy([list(each) for each in policy], profile=PRODUCT),
        nonce=b"",
        expires_s=1,
    )


@pytest.mark.parametrize(
    ("command", "own", "others", "namespace", "said"),
    [
        (
            *(auth.TASK_CANCEL, None, [Held(auth.TASK_READ, (TEAM,))], ""),
            (
                "you may read tasks in team-a/*, but not cancel them"
                f"{ASK}/task/cancel --where 'namespace=team-a/*'"
            ),
        ),
        (
            *(auth.TASK_SUBMIT, None, [Held(auth.TASK_READ, (TEAM,))], "team-a/x"),
            (
                "you may read tasks in team-a/*, but not submit them"
                f"{ASK}/task/submit --where namespace=team-a/x"
            ),
        ),
        (
            *(auth.TASK_READ, Held(auth.TASK_READ, (TEAM, "b")), [], ""),
            f"you may read tasks in team-a/* and b only{ASK}/task/read --where namespace=NAMESPACE",
        ),
        (
            *(auth.TASK_SUBMIT, Held(auth.TASK_SUBMIT, limited=True), [], "team-b"),
            (
                "you may submit tasks within the conditions of your delegation only"
                f"{ASK}/task/submit --where namespace=team-b"
            ),
        ),
        (
            auth.TASK_CANCEL,
            None,
            [Held(auth.TASK_READ), Held(auth.TASK_SUBMIT, ("b",))],
            "",
            f"you may read tasks and submit tasks in b, but not cancel them{ASK}/task/cancel",
        ),
        (auth.BACKUP_CREATE, None, [], "", f"you may not make backups{ASK}/admin/backup"),
        # A submission says its namespace; it may have been meant for another.
        (
            *(auth.TASK_SUBMIT, Held(auth.TASK_SUBMIT, (TEAM, "team-a")), [], "default"),
            (
                "you may submit tasks in team-a/* and team-a only, and this call is in default; "
                f"add --namespace team-a, or{ASK[1:]}/task/submit --where namespace=default"
            ),
        ),
        (
            *(auth.TASK_SUBMIT, Held(auth.TASK_SUBMIT, (TEAM,)), [], "team-b"),
            (
                "you may submit tasks in team-a/* only, and this call is in team-b"
                f"{ASK}/task/submit --where namespace=team-b"
            ),
        ),
        (
            *(auth.TASK_SUBMIT, Held(auth.TASK_SUBMIT, ("b",), limited=True), [], "b"),
            (
                "you may submit tasks in b within the conditions of your delegation only"
                f"{ASK}/task/submit --where namespace=b"
            ),
        ),
        (
            *(auth.CONTENT_READ, Held(auth.CONTENT_READ, ("team-a",)), [], ""),
            f"you may read files in team-a only{ASK}/content/read --where namespace=NAMESPACE",
        ),
        (
            *(auth.CONTENT_READ, Held(auth.CONTENT_READ, ("team-a", "default")), [], ""),
            (
                "you may read files in team-a and default only"
                f"{ASK}/content/read --where namespace=NAMESPACE"
            ),
        ),
        (
            *(auth.CONTENT_ADD, None, [Held(auth.CONTENT_READ, ("team-a",))], "team-a"),
            (
                "you may read files in team-a, but not add them"
                f"{ASK}/content/add --where namespace=team-a"
            ),
        ),
        # It may have been meant for another.
        (
            *(auth.CONTENT_ADD, Held(auth.CONTENT_ADD, ("team-a",)), [], "default"),
            (
                "you may add files in team-a only, and this call is in default; "
                f"add --namespace team-a, or{ASK[1:]}/content/add --where namespace=default"
            ),
        ),
        (
            *(auth.CONTENT_REMOVE, None, [Held(auth.CONTENT_READ, ("team-a",))], ""),
            (
                "you may read files in team-a, but not remove them"
                f"{ASK}/content/remove --where namespace=team-a"
            ),
        ),
    ],
)
def test_a_denial_says_what_one_may_and_what_to_ask_for(
    command: Command, own: Held | None, others: list[Held], namespace: str, said: str
) -> None:
    assert denial(command, ANNA, own, others, namespace) == said


def test_what_chains_let_one_do() -> None:
    limited, elsewhere = link(("like", ".namespace", TEAM)), link(("==", ".namespace", "b"))
    low = link(("<=", ".priority", 3))
    assert held_by(auth.TASK_READ, [[limited], [elsewhere]]) == Held(auth.TASK_READ, (TEAM, "b"))
    assert held_by(auth.TASK_READ, [[limited], [link()]]) == Held(auth.TASK_READ)
    assert held_by(auth.TASK_READ, [[limited, low]]) == Held(auth.TASK_READ, (TEAM,), limited=True)
    assert held_by(auth.TASK_READ, [[limited, elsewhere]]).namespaces == ("b",)
    assert held_by(auth.TASK_READ, [[link(("!=", ".namespace", "b"))]]).limited


def test_every_command_has_words() -> None:
    assert {rule.command for rule in RULES_BY_METHOD.values()} - {None} <= WORDS.keys()
    assert {value for name, value in vars(auth).items() if name.isupper() and _is(value)} - {
        "/"
    } == WORDS.keys()
    assert set(alike(auth.TASK_READ)) == {auth.TASK_CANCEL, auth.TASK_SUBMIT}


def _is(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/") and value != auth.BELOW
