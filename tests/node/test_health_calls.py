"""Whether masters run, and whether a node was removed: what they answer, and what silence says."""

from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.access.identify import REMOVED_KEY
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.node import health_calls
from ipfs_cluster_node.node.health_calls import check_home_free, masters_that_run
from ipfs_cluster_node.v1 import health_pb2
from tests.support.dispatch import rpc_error

Answer = health_pb2.GetHealthResponse | ClusterError
REMOVED = ClusterError(Reason.CALLER_UNKNOWN, "removed", metadata={REMOVED_KEY: "true"})
UNKNOWN = ClusterError(Reason.CALLER_UNKNOWN, "unknown here")
AWAY = ClusterError(Reason.UNREACHABLE, "nobody there")
SLOW = ClusterError(Reason.DEADLINE_EXCEEDED, "no answer")


def well(leader: str = "") -> health_pb2.GetHealthResponse:
    answer = health_pb2.GetHealthResponse()
    answer.raft.leader_node_id = leader
    return answer


class Net:
    """The answers, by address; each call expects a node id."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.answers: dict[tuple[str, str | None], Answer] = {}
        patch.setattr(health_calls, "open_channel", self._open)
        patch.setattr(health_calls, "HealthServiceStub", self._stub)
        self.known: list[tuple[str, str]] = []
        patch.setattr(
            health_calls, "PeerBook", lambda _path: SimpleNamespace(targets=self._targets)
        )
        patch.setattr(health_calls, "load_files", self._files)
        self.files_error: Exception | None = None

    def _targets(self) -> list[tuple[str, str]]:
        return self.known

    def _files(self, _home: Home) -> Any:
        if self.files_error is not None:
            raise self.files_error
        return SimpleNamespace(tls="own")

    @asynccontextmanager
    async def _open(self, address: str, *, tls: Any, node_id: str | None) -> Any:
        assert tls == "own"
        yield address, node_id

    def _stub(self, channel: Any) -> Any:
        async def get_health(_request: Any, *, timeout: float) -> Any:
            assert timeout == health_calls.ASK_SECONDS_MAX
            answer = self.answers.get(channel, AWAY)
            if isinstance(answer, ClusterError):
                raise rpc_error(answer)
            return answer

        return SimpleNamespace(GetHealth=get_health)


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    return Net(monkeypatch)  # type: ignore[return-value]


def master(name: str, *endpoints: str) -> Any:
    return SimpleNamespace(node_id=NodeId(name), endpoints=endpoints)


@pytest.mark.asyncio
async def test_masters_run_that_answer_or_refuse_and_silence_is_no_answer(net: Net) -> None:
    masters = [master(name, f"{name}:1") for name in ("leads", "refuses", "away", "slow")]
    net.answers = {
        ("leads:1", "leads"): well("leads"),
        ("refuses:1", "refuses"): UNKNOWN,
        ("slow:1", "slow"): SLOW,
    }
    heard = await masters_that_run(masters, "own")  # type: ignore[arg-type]
    assert [(each.master.node_id, each.leader) for each in heard] == [
        ("leads", "leads"),
        ("refuses", ""),
    ]


@pytest.mark.asyncio
async def test_a_master_is_asked_at_each_of_its_addresses_and_for_by_its_name(net: Net) -> None:
    net.answers = {
        ("a:1", "a"): UNKNOWN,
        ("a:2", "a"): well("b"),
        ("a:3", "a"): UNKNOWN,
        ("b:1", "another"): well("b"),  # Somebody else is there by now.
    }
    heard = await masters_that_run([master("a", "a:1", "a:2", "a:3"), master("b", "b:1")], "own")  # type: ignore[arg-type]
    assert [(each.master.node_id, each.leader) for each in heard] == [("a", "b")]


def taken(path: Path) -> Home:
    home = Home(path)
    home.config.touch()
    home.identity.touch()
    return home


async def refusal(home: Home) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        await check_home_free(home)
    assert caught.value.reason is Reason.HOME_EXISTS
    return caught.value


@pytest.mark.asyncio
async def test_an_empty_home_is_not_taken_and_nobody_is_asked(tmp_path: Path) -> None:
    await check_home_free(Home(tmp_path))


@pytest.mark.asyncio
async def test_a_removed_node_is_not_told_to_start(net: Net, tmp_path: Path) -> None:
    """One master that knows is enough, whatever the others say."""
    home = taken(tmp_path)
    net.known = [("a:1", "a"), ("b:1", "b"), ("c:1", "c")]
    net.answers = {("a:1", "a"): UNKNOWN, ("b:1", "b"): REMOVED}
    message = (await refusal(home)).message
    assert "removed from its cluster for good" in message
    assert "serve" not in message
    assert "another --home" in message


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [UNKNOWN, AWAY, SLOW, well("x")], ids=range(4))
async def test_where_no_master_says_so_it_is_not_told_that_a_node_was_removed(
    net: Net, tmp_path: Path, answer: Answer
) -> None:
    net.known = [("a:1", "a")]
    net.answers = {("a:1", "a"): answer}
    assert "start it with `serve`" in (await refusal(taken(tmp_path))).message


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "error", [ClusterError(Reason.HOME_DAMAGED, "no key"), OSError(5, "io"), ValueError("bytes")]
)
async def test_a_home_whose_keys_cant_be_read_is_taken_all_the_same(
    net: Net, tmp_path: Path, error: Exception
) -> None:
    net.files_error = error
    assert "start it with `serve`" in (await refusal(taken(tmp_path))).message
