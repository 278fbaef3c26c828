"""What each method requires: a request, and its exact commands and arguments."""

import re
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pytest

from ipfs_cluster_node.access.requirements import RequestContext
from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from ipfs_cluster_node.codec.arrow_tables import table_rows
from ipfs_cluster_node.core import authorization as auth
from ipfs_cluster_node.core.delegable import ARGUMENTS
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.services.requests import request_type_of
from ipfs_cluster_node.v1 import (
    certificate_pb2,
    content_pb2,
    membership_pb2,
    roles_pb2,
    state_delta_pb2,
)
from ipfs_cluster_node.v1 import task_dispatch_pb2 as tasks
from tests.support.requirement_cases import (
    ALICE,
    ASKING,
    BOBS,
    CASES,
    FILE,
    ITEMS,
    MINE,
    NOBODYS_TASK,
    RESULT,
    SHARED_IN,
    STATE,
    UNKNOWN_SIZE,
    Expected,
    content,
    unknown_content,
)

ASKING_METHODS: Final = [method for method, rule in RULES_BY_METHOD.items() if rule.required]
LISTING_METHODS: Final = [
    method for method, rule in RULES_BY_METHOD.items() if rule.command and not rule.required
]
OWN_DECISIONS: Final = (auth.DELEGATION_LIST, auth.DELEGATION_REVOKE)
"""Commands that are required by methods with `decides_itself`."""


def name_of(method: str) -> str:
    return method.rsplit("/", 1)[1]


def asked(method: str, request: Any, context: RequestContext = ASKING) -> Expected:
    rule = RULES_BY_METHOD[method]
    assert rule.required is not None
    kind = request_type_of(method)
    assert kind is not None
    request = kind() if request is None else request
    assert type(request) is kind
    value = rule.decode(request) if rule.decode else request
    return [
        (str(ask.command), list(auth.distinct(ask.each))) for ask in rule.required(value, context)
    ]


def test_every_method_has_a_case_and_no_case_is_left_over() -> None:
    assert CASES.keys() == set(map(name_of, ASKING_METHODS))
    assert ITEMS.keys() == set(map(name_of, LISTING_METHODS))


@pytest.mark.parametrize("method", ASKING_METHODS, ids=name_of)
def test_a_request_asks_for_exactly_this(method: str) -> None:
    for request, expected in CASES[name_of(method)]:
        assert asked(method, request) == expected


@pytest.mark.parametrize("method", ASKING_METHODS, ids=name_of)
def test_every_argument_of_a_command_is_there_in_every_call(method: str) -> None:
    """Else `!=` and `not` would hold where one is absent."""
    rule = RULES_BY_METHOD[method]
    for request, _ in CASES[name_of(method)]:
        for command, each in asked(method, request):
            for args in chain.from_iterable(map(auth.alternatives, each)):
                assert args.keys() == NAMES[command], (method, rule.command)
                assert None not in args.values()


NAMES: Final = {
    command: frozenset(auth.alternatives(args)[0])
    for cases in CASES.values()
    for _, expected in cases
    for command, each in expected
    for args in each[:1]
} | {"/state/read": frozenset({"table", *auth.ROW_UNKNOWN})}


@pytest.mark.parametrize("method", LISTING_METHODS, ids=name_of)
def test_every_argument_of_a_command_is_there_in_every_item(method: str) -> None:
    command = str(RULES_BY_METHOD[method].command)
    if command in NAMES:
        assert ITEMS[name_of(method)].keys() == NAMES[command]


def test_a_row_of_every_table_has_the_arguments_of_all_tables() -> None:
    """A value that a row lacks is unknown, so that no policy holds by accident."""
    rows: list[dict[str, Any]] = []

    def allows(args: auth.Args) -> bool:
        rows.append(args)
        return True

    for table in state_delta_pb2.StateTable.values():
        if table:
            list(table_rows(table, STATE, [], caller=ALICE, allows=allows))
    unknown = NOBODYS_TASK | {"role": "*", "cid": "*", "size": UNKNOWN_SIZE}
    settings = [row for row in rows if row["table"] == "config"]
    assert settings == [unknown | {"table": "config"}] * len(STATE.settings.keys())
    assert rows[: -len(settings)] == [
        unknown | {"table": "nodes", "role": "master"},
        unknown | {"table": "nodes", "role": "worker"},
        unknown | {"table": "tasks"} | MINE,
        unknown | {"table": "tasks"} | BOBS,
        unknown | {"table": "content"} | content(FILE, 1234),
        unknown | {"table": "content"} | content(RESULT, 9) | {"namespace": "team-a/nightly"},
        *(unknown | {"table": "content"} | each for each in SHARED_IN),
    ]


def test_where_there_is_no_log_nothing_is_known() -> None:
    service = "/ipfs_cluster_node.v1.ContentService/StatContent"
    blind = replace(ASKING, state=None)
    assert asked(service, content_pb2.StatContentRequest(cid=FILE), blind) == [
        ("/content/read", [unknown_content(FILE)])
    ]


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("TaskDispatchService/GetTask", tasks.GetTaskRequest(task_id="a/../b")),
        ("TaskDispatchService/WatchTasks", tasks.WatchTasksRequest(task_ids=["mine", "*"])),
        ("TaskDispatchService/CancelTask", tasks.CancelTaskRequest(task_id="")),
        (
            "TaskDispatchService/SubmitTask",
            tasks.SubmitTaskRequest(spec=tasks.TaskSpec(task_type="echo", namespace="team-a/../x")),
        ),
        ("ContentService/GetContent", content_pb2.GetContentRequest(cid=FILE[:-1])),
        ("ContentService/GetBlocks", content_pb2.GetBlocksRequest(cids=[b"x"])),
        ("MembershipService/RemoveNode", membership_pb2.RemoveNodeRequest(node_id="*")),
        ("MembershipService/DecideJoiner", membership_pb2.DecideJoinerRequest(did="*")),
        ("MembershipService/TransferLeadership", membership_pb2.TransferLeadershipRequest(node_id="*")),
        ("MembershipService/CreateJoinToken", membership_pb2.CreateJoinTokenRequest(role=99)),  # type: ignore[arg-type]
        (
            "MembershipService/CreateJoinToken",
            membership_pb2.CreateJoinTokenRequest(role=roles_pb2.ROLE_CLIENT, grant=99),  # type: ignore[arg-type]
        ),
        (
            "MembershipService/CreateJoinToken",
            membership_pb2.CreateJoinTokenRequest(
                role=roles_pb2.ROLE_WORKER, grant=roles_pb2.GRANT_READER
            ),
        ),
        *(
            (
                "MembershipService/CreateJoinToken",
                membership_pb2.CreateJoinTokenRequest(
                    role=roles_pb2.ROLE_CLIENT, grant=grant, namespace=namespace
                ),
            )
            for grant, namespace in (
                (roles_pb2.GRANT_READER, "team-*"),
                (roles_pb2.GRANT_READER, "*"),
                (roles_pb2.GRANT_READER, "team-a/../x"),
                (roles_pb2.GRANT_READER, "team-a/*/*"),
                (roles_pb2.GRANT_OPERATOR, "team-a"),
                (roles_pb2.GRANT_NONE, "team-a"),
            )
        ),
        ("CertificateService/RevokeCertificate", certificate_pb2.RevokeCertificateRequest(did="*")),
        (
            "CertificateService/RevokeCertificate",
            certificate_pb2.RevokeCertificateRequest(serial="0X1"),
        ),
    ],
)  # fmt: skip
def test_no_policy_ever_judges_a_name_that_is_malformed(method: str, request_: Any) -> None:
    with pytest.raises(ClusterError) as caught:
        asked(f"/ipfs_cluster_node.v1.{method}", request_)
    assert caught.value.reason in (Reason.INVALID_ARGUMENT, Reason.MALFORMED_CID)


def test_the_docs_name_every_argument() -> None:
    """Methods, callers and commands are generated (`scripts/lib/doc_tables.py`)."""
    lines = Path("docs/authorization.md").read_text("utf-8").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    documented = {
        row[0].strip("`"): row[1] for row in cells if len(row) == 2 and row[0][:2] == "`/"
    }
    others: dict[str, set[str]] = {str(command): set() for command in OWN_DECISIONS}
    for method, rule in RULES_BY_METHOD.items():
        asked_with = others.setdefault(str(rule.command), set()) if rule.command else set()
        for _, expected in CASES.get(name_of(method), []):
            asked_with |= {command for command, _ in expected} - {str(rule.command)}
            assert expected == [] or expected[0][0] == rule.command
    assert documented.keys() == others.keys() == ARGUMENTS.keys()
    names = NAMES | {
        str(rule.command): ITEMS[name_of(method)].keys()
        for method, rule in RULES_BY_METHOD.items()
        if method in LISTING_METHODS
    }
    names |= dict.fromkeys(map(str, OWN_DECISIONS), auth.delegation_args(ALICE, ALICE).keys())
    for command, text in documented.items():
        named = set(re.findall(r"`([^`]+)`", text))
        commands = {word for word in named if word.startswith("/")}
        assert named - commands - {auth.ANY} == names[command], command
        assert ARGUMENTS[Command(command)] == names[command], command
        assert commands == others[command], command
