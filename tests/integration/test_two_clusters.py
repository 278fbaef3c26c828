"""Two real clusters and one profiles file: who is asked, as whom, and that neither lets in the other's."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.cli.local_cluster import LocalCluster, command
from ipfs_cluster_node.config.profiles import PROFILE_VARIABLE, PROFILES_VARIABLE, save_profile
from tests.support.certificates import operator_credentials, tls_of
from tests.support.clusters import cluster_of, for_module
from tests.support.environment import environment_with
from tests.support.nodes import refusal

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LocalCluster]]:
    roots = {name: tmp_path_factory.mktemp(name) for name in ("a", "b")}
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(for_module(cluster_of(1, 0, root=root)))
            for name, root in roots.items()
        }


@pytest.fixture
def cli(clusters: dict[str, LocalCluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    profiles = tmp_path / "profiles.toml"
    monkeypatch.setenv(PROFILES_VARIABLE, str(profiles))
    for name, local in clusters.items():
        save_profile(name, local.profile)

    def run(*arguments: str, **environment: str) -> Any:
        return subprocess.run(
            command(*arguments),
            env=environment_with(profiles) | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def asked(cli: Cli, *profile: str, **environment: str) -> tuple[str, str]:
    """The cluster that answers, and who it says one is."""
    status = cli(*profile, "status", "--json", **environment)
    whoami = cli(*profile, "auth", "whoami", "--json", **environment)
    assert (status.returncode, whoami.returncode) == (0, 0), status.stderr + whoami.stderr
    return json.loads(status.stdout)["cluster_id"], json.loads(whoami.stdout)["did"]


def test_a_profile_leads_to_its_cluster_with_its_identity(
    clusters: dict[str, LocalCluster], cli: Cli
) -> None:
    by_flag = {name: asked(cli, "--profile", name) for name in clusters}
    assert by_flag["a"][0] != by_flag["b"][0]
    assert by_flag["a"][1] != by_flag["b"][1]
    for name, found in by_flag.items():
        assert asked(cli, **{PROFILE_VARIABLE: name}) == found
        other = {"a": "b", "b": "a"}[name]
        # What is said last counts more.
        assert asked(cli, "--profile", name, **{PROFILE_VARIABLE: other}) == found
    nothing = cli("status")
    assert nothing.returncode == 2
    assert "there are a, b" in nothing.stderr
    for name, found in by_flag.items():
        assert cli("profile", "use", name).returncode == 0
        assert asked(cli) == found


def test_profiles_are_listed_and_the_one_in_use_is_marked(
    clusters: dict[str, LocalCluster], cli: Cli
) -> None:
    def listed(*profile: str) -> dict[str, Any]:
        found = json.loads(cli(*profile, "profile", "list", "--json").stdout)
        return {each["name"]: each for each in found}

    assert [each["used"] for each in listed().values()] == [False, False]
    assert [each["used"] for each in listed("--profile", "b").values()] == [False, True]
    assert json.loads(cli("profile", "use", "a", "--json").stdout) == {"name": "a"}
    assert [each["used"] for each in listed().values()] == [True, False]
    assert {name: each["did"] for name, each in listed().items()} == {
        name: asked(cli, "--profile", name)[1] for name in clusters
    }
    lines = cli("profile", "list").stdout.splitlines()
    assert [line.split("\t")[:2] for line in lines[1:]] == [["*", "a"], ["", "b"]]
    shown = json.loads(cli("profile", "show", "b", "--json").stdout)
    assert shown["endpoints"][0]["address"] == clusters["b"].nodes[0].address
    assert listed()["a"]["did"] in cli("profile", "show").stdout
    for wrong in (("use", "c"), ("show", "c")):
        done = cli("profile", *wrong)
        assert done.returncode == 2
        assert "there are a, b" in done.stderr
    # One that is wrong hides no other.
    save_profile("broken", replace(clusters["a"].profile, certificate=Path("gone.pem")))
    assert listed()["broken"]["error"]
    assert listed()["b"]["did"]
    script = cli(
        *("completion", "bash"),
        _IPFS_CLUSTER_NODE_COMPLETE="bash_complete",
        COMP_WORDS="ipfs-cluster-node profile use ",
        COMP_CWORD="3",
    )
    assert [line.rpartition(",")[2] for line in script.stdout.split()] == ["a", "b", "broken"]


@pytest.mark.asyncio
async def test_a_profiles_certificate_is_refused_at_the_other_cluster(
    clusters: dict[str, LocalCluster],
) -> None:
    shown = {name: tls_of(operator_credentials(local)) for name, local in clusters.items()}
    for name, other in (("a", "b"), ("b", "a")):
        node = clusters[other].nodes[0]
        assert await refusal(node, shown[other]) == "OK"
        # Neither trusts the other; and one that trusts is not trusted.
        trusting = ClientTls(shown[other].ca_pem, shown[name].certificate_pem, shown[name].key_pem)
        for tls in (shown[name], trusting):
            assert (await refusal(node, tls)).startswith("UNAVAILABLE")
