"""A machine that joins in place of a node that is gone."""

from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import load_profile, save_profile
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import Liveness, Role
from ipfs_cluster_node.core.views import ListedNode
from ipfs_cluster_node.node.replacing import has_replaced, move_aside, replace_node, replaced_node
from ipfs_cluster_node.node.setup import profile_of

GONE = ListedNode(node_id="gone", name="a", role=Role.WORKER, liveness=Liveness.DEAD)
ALIVE = ListedNode(node_id="alive", name="b", role=Role.WORKER, liveness=Liveness.ALIVE)
NAMESAKE = ListedNode(node_id="namesake", name="a", liveness=Liveness.DEAD)


@pytest.mark.parametrize(
    ("nodes", "name", "own", "found"),
    [
        ([GONE, ALIVE], "a", None, "gone"),
        ([GONE, ALIVE], "a", "gone", "gone"),
        ([GONE, ALIVE], "a", "removed long ago", "gone"),
        ([ALIVE], "a", None, Reason.MEMBER_NOT_FOUND),
        ([ALIVE], "a", "gone", None),
        ([GONE, ALIVE], "b", None, Reason.INVALID_ARGUMENT),
        ([GONE, NAMESAKE], "a", None, Reason.INVALID_ARGUMENT),
        ([GONE, ALIVE], "a", "alive", Reason.HOME_EXISTS),
    ],
)
def test_who_is_replaced(
    nodes: list[ListedNode], name: str, own: str | None, found: str | Reason | None
) -> None:
    try:
        gone = replaced_node(nodes, name, own, Role.WORKER, again=False)
        assert (gone.node_id if gone is not None else None) == found
    except ClusterError as error:
        assert error.reason is found
        assert name != "b" or "is alive" in error.message


class Cluster:
    """A client, and the node that it removes."""

    def __init__(self, *, refusal: ClusterError | None = None) -> None:
        self.refusal, self.nodes = refusal, [GONE, ALIVE]

    async def __aenter__(self) -> "Cluster":
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing."""

    async def list_nodes(self) -> list[ListedNode]:
        return self.nodes

    async def remove_node(self, node_id: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.nodes = [node for node in self.nodes if node.node_id != node_id]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a node, and a profile."""
    monkeypatch.setenv("IPFS_CLUSTER_NODE_PROFILES", str(tmp_path / "profiles.toml"))
    made = Home(tmp_path / "home")
    made.create()
    made.config.write_text("config")
    made.identity.write_bytes(Identity.create().pem())
    made.identity.chmod(0o600)
    client = made.path / "client"
    client.mkdir(mode=0o700)
    for name in ("ca.pem", "client.pem", "client.key"):
        (client / name).write_text(name)
    files = (client / "ca.pem", client / "client.pem", client / "client.key")
    save_profile("p", profile_of(*files, {"m": ("h:1",)}))  # type: ignore[dict-item]
    return made


async def replaced(home: Home, cluster: Cluster) -> list[str]:
    said: list[str] = []
    opened: Any = cluster
    await replace_node(
        lambda: opened, home, "a", None, on_done=said.append, now=SYSTEM_CLOCK.wall()
    )
    return said


@pytest.mark.asyncio
async def test_the_old_node_is_removed_and_its_files_are_moved_aside(home: Home) -> None:
    cluster = Cluster()
    removed, moved = await replaced(home, cluster)
    assert cluster.nodes == [ALIVE]
    assert "gone" in removed
    home.check_free()
    [aside] = home.path.glob("replaced-*")
    assert str(aside) in moved
    assert (aside / "config.toml").read_text() == "config"
    assert Identity.load(aside / "identity.key")
    assert load_profile("p").key.read_text() == "client.key"
    assert await replaced(home, cluster) == [], "a repeat does nothing"


@pytest.mark.asyncio
async def test_who_may_not_remove_it_changes_nothing(home: Home) -> None:
    cluster = Cluster(refusal=ClusterError(Reason.NOT_DELEGATED, "no"))
    with pytest.raises(ClusterError):
        await replaced(home, cluster)
    assert home.is_taken
    assert list(home.path.glob("replaced-*")) == []


@pytest.mark.asyncio
async def test_the_home_of_a_node_that_runs_is_left_alone(home: Home) -> None:
    cluster = Cluster()
    with home.lock(), pytest.raises(ClusterError) as caught:
        await replaced(home, cluster)
    assert caught.value.reason is Reason.HOME_IN_USE
    assert cluster.nodes == [GONE, ALIVE]


def test_after_an_interruption_anywhere_the_rest_of_the_files_is_moved(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What marks that a node is there goes last, so a repeat knows of it."""
    files = {path.relative_to(home.path).parts[0] for path in home.path.iterdir()} - {"lock"}
    rename, left = Path.rename, [1]

    def one_at_a_time(path: Path, target: Path) -> Path:
        if not left[0]:
            raise InterruptedError
        left[0] -= 1
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", one_at_a_time)
    for _ in range(len(files) - 1):
        with pytest.raises(InterruptedError):
            move_aside(home, now=SYSTEM_CLOCK.wall())
        assert home.config.exists()
        left[0] = 1
    move_aside(home, now=SYSTEM_CLOCK.wall())
    assert not home.is_taken
    assert {path.name for path in home.path.glob("replaced-*/*")} == files
    assert move_aside(home, now=SYSTEM_CLOCK.wall()) is None


def test_a_node_of_another_role_is_replaced_only_if_that_is_said() -> None:
    with pytest.raises(ClusterError, match="is a worker, and the token is for a master") as caught:
        replaced_node([GONE, ALIVE], "a", None, Role.MASTER, again=False)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert "--change-role" in caught.value.message
    assert replaced_node([GONE, ALIVE], "a", None, None, again=False) == GONE


def test_a_name_that_no_node_has_is_refused_but_by_a_repeat(home: Home) -> None:
    with pytest.raises(ClusterError, match=r"no node is named nosuch; .* without --replace"):
        replaced_node([GONE, ALIVE], "nosuch", None, Role.WORKER, again=has_replaced(home))
    (home.path / "replaced-20261201T000000.000000Z").mkdir(parents=True)
    assert replaced_node([ALIVE], "a", None, Role.WORKER, again=has_replaced(home)) is None


@pytest.mark.asyncio
async def test_it_is_asked_with_role_name_and_id_and_without_consent_nothing_changes(
    home: Home,
) -> None:
    cluster: Any = Cluster()
    asked: list[str] = []

    def confirm(what: str) -> None:
        asked.append(what)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await replace_node(
            lambda: cluster,
            home,
            "a",
            Role.WORKER,
            confirm=confirm,
            on_done=lambda _said: None,
            now=SYSTEM_CLOCK.wall(),
        )
    assert asked == ["worker a (gone), which is dead"]
    assert cluster.nodes == [GONE, ALIVE]
    assert home.is_taken
