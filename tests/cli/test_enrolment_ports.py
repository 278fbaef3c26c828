"""Enrolment ports of masters: one that other machines can reach is enough."""

from typing import Any

import pytest

from ipfs_cluster_node.access.context import Caller, CallerClass, set_permissions
from ipfs_cluster_node.access.permissions import Unrestricted
from ipfs_cluster_node.cli.join_hint import Invitation
from ipfs_cluster_node.cli.node_commands import node_settings
from ipfs_cluster_node.services.membership import MembershipServicer
from ipfs_cluster_node.v1 import membership_pb2, roles_pb2
from tests.support.members import PEER, Leader
from tests.support.virtual_time import virtual_time
from tests.support.worlds import CLIENT, MASTER


@pytest.mark.parametrize(
    ("bind", "enrolment_bind", "then"),
    [
        (None, None, "127.0.0.1:9095"),
        ("0.0.0.0:9096", None, "0.0.0.0:9095"),
        ("[fd00::1]:7000", None, "[fd00::1]:9095"),
        ("0.0.0.0:9096", "127.0.0.1:5", "127.0.0.1:5"),
    ],
)
def test_joiners_are_let_in_at_the_host_of_bind_unless_told(
    bind: str | None, enrolment_bind: str | None, then: str
) -> None:
    settings = node_settings(
        role="master",
        name="n",
        bind=bind,
        enrolment_bind=enrolment_bind,
        advertise=("a.example:9096",),
    )
    assert settings.enrolment_bind == then


@virtual_time
async def test_a_token_names_the_enrolment_ports_of_all_masters() -> None:
    leader = Leader()
    for node_id, endpoint in ((MASTER, "127.0.0.1:9095"), (PEER, "b.example:9095")):
        leader.commit(leader.registration(node_id, enrolment_endpoints=(endpoint,)))
    set_permissions(Unrestricted(Caller(CLIENT, CallerClass.CLIENT)))
    view: Any = leader
    servicer = MembershipServicer(view.members, view, view)
    request = membership_pb2.CreateJoinTokenRequest(request_id="r", role=roles_pb2.ROLE_WORKER)
    answer = await servicer.CreateJoinToken(request, None)
    assert sorted(answer.enrolment_endpoints) == ["127.0.0.1:9095", "b.example:9095"]


@pytest.mark.parametrize(
    ("endpoints", "told", "untold"),
    [
        (
            ["127.0.0.1:9095", "b.example:9095", "10.0.0.3:9095"],
            ["on a: ipfs-cluster-node join TOKEN@b.example:9095,10.0.0.3:9095\n"],
            ["127.0.0.1", "config.toml"],
        ),
        (
            ["127.0.0.1:9095", "[::1]:9095"],
            [
                "on this machine: ipfs-cluster-node join 'TOKEN@127.0.0.1:9095,[::1]:9095' --bind",
                "no master accepts joiners from other machines",
                "init --bind 0.0.0.0:9096 --advertise HOST:9096",
                "config.toml",
            ],
            ["MASTER"],
        ),
        ([], ["join TOKEN --enrolment MASTER:9095\n"], ["config.toml"]),
    ],
)
def test_the_hint_names_masters_that_other_machines_reach(
    capsys: Any, endpoints: list[str], told: list[str], untold: list[str]
) -> None:
    Invitation("TOKEN", endpoints, role="worker").show("a")
    said = capsys.readouterr()
    assert said.out.partition("@")[0].strip() == "TOKEN"
    assert said.out.strip() in said.err
    assert all(each in said.err for each in told), said.err
    assert not any(each in said.err for each in untold), said.err


REACHED = ("a.example:9095",)
HERE = ("127.0.0.1:9095",)


@pytest.mark.parametrize(
    ("endpoints", "role", "addresses", "options"),
    [
        (REACHED, "client", (), ""),
        (REACHED, "worker", (), ""),
        (REACHED, "leecher", (), ""),
        (REACHED, "master", (), " --bind 0.0.0.0:9096 --advertise HOST:9096"),
        (REACHED, "master", ("b:7000", "c:1"), " --bind 0.0.0.0:7000 --advertise b:7000"),
        (REACHED, "worker", ("b:7000",), " --bind 0.0.0.0:7000 --advertise b:7000"),
        (REACHED, "worker", ("[fd00::2]:7",), " --bind '[::]:7' --advertise '[fd00::2]:7'"),
        (HERE, "client", (), ""),
        (HERE, "worker", (), " --bind 127.0.0.1:0"),
        (HERE, "master", (), " --bind 127.0.0.1:PORT --enrolment-bind 127.0.0.1:PORT"),
        (HERE, "worker", ("127.0.0.3:7000",), " --bind 127.0.0.3:7000"),
        (HERE, "master", ("[::1]:7000",), " --bind '[::1]:7000' --enrolment-bind '[::1]:PORT'"),
    ],
)
def test_the_command_to_paste_is_right_for_the_role(
    capsys: Any, endpoints: tuple[str, ...], role: str, addresses: tuple[str, ...], options: str
) -> None:
    made = Invitation("TOKEN", endpoints, role=role, addresses=addresses)
    assert made.command == f"ipfs-cluster-node join TOKEN@{endpoints[0]}{options}"
    assert made.document() == {"token": f"TOKEN@{endpoints[0]}", "command": made.command}
    made.show("a")
    said = capsys.readouterr()
    assert said.out == f"{made.token}\n"
    assert ("HOST is that machine's" in said.err) is ("HOST" in options)
    assert ("HOST is this machine's" in said.err) is (endpoints == HERE)
    assert ("PORT is one that is free" in said.err) is ("PORT" in options)
