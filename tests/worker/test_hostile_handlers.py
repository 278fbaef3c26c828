"""What handlers do to harm their node, other attempts or the machine comes to nothing.

One pool survives them all, and works after each. The last test runs the others once more as a plain
user and where no namespaces can be made. There, `pool.missing` says what does not hold, and those
tests are left out that need it.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.worker import pool as pool_module
from ipfs_cluster_node.adapters.worker.pool import AttemptFailed, AttemptSucceeded
from ipfs_cluster_node.adapters.worker.processes import (
    MARKER_VARIABLE,
    MEMORY_VARIABLE,
    PASSED_VARIABLES,
)
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import OUTPUT_TAIL_BYTES_MAX
from tests.support.hostile_pool import MARK, SECRET, World, daemons, with_word
from tests.worker.hostile_answers import MARK_VARIABLE

ROOT = Path(__file__).parents[2]


INSIDE = "HOSTILE_HANDLERS_RUN_INSIDE"


WITHOUT = os.environ.get(INSIDE) == "without"
"""Here each forged frame costs a whole process, since its keeper can't be trusted any longer."""
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv(MARK_VARIABLE, MARK)
        made = World(tmp_path_factory.mktemp("hostile"))
        await made.pool.start()
        if WITHOUT:
            assert "handlers can read the node's keys" in made.pool.missing[0]
        yield made
        await made.pool.close()
    assert list((made.home / "state" / "scratch").iterdir()) == []


@pytest_asyncio.fixture(loop_scope="module")
async def world(made: World) -> AsyncIterator[World]:
    made.news.clear()
    yield made
    await made.is_well()
    assert made.pool._busy == set()  # Memory outside an attempt is not attributed to one.
    assert daemons() == []


@pytest.fixture
def confined(world: World) -> World:
    if world.pool.missing:
        pytest.skip("; ".join(world.pool.missing))
    return world


async def test_forged_frames_fail_their_own_attempt(world: World) -> None:
    names = json.loads(await world.data("names_of_forgeries"))
    assert len(names) > 40

    async def forge(name: str) -> None:
        failed = await world.fails("forge", name)
        assert failed.reason in (Reason.HANDLER_FAILED, Reason.TASK_RESULT_INVALID), (name, failed)
        assert not failed.retryable or name == "cut", (name, failed)
        assert "forged" not in failed.message

    await world.each(map(forge, names[::4] if WITHOUT else names))


async def test_frames_changed_by_chance_harm_nobody(world: World) -> None:
    async def forge(seed: int) -> None:
        done = await world.run("forge_by_chance", str(seed))
        if isinstance(done, AttemptSucceeded):  # The change was in its own bytes.
            assert len(done.data) < 20
            assert done.file is None

    await world.each(map(forge, range(6 if WITHOUT else 60)))


async def test_a_flood_of_progress_costs_its_handlers_time_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "PROGRESS_PAUSE_SECONDS", 0.05)
    flood = asyncio.create_task(world.fails("flood_of_progress", seconds=2))
    asked = [f"{n}" for n in range(4)]  # The other slot goes on with its work.
    assert [await world.data("honest", each) for each in asked] == [
        b"of " + each.encode() for each in asked
    ]
    assert (await flood).reason is Reason.ATTEMPT_TIMED_OUT
    assert len(world.news) < 150


async def test_no_file_but_the_attempts_own_is_a_result(world: World) -> None:
    for what in (
        (
            "absolute upwards link,link on the way,link to itself,hard link,two names,pipe,socket,"
            "hard link to a program,device,linked device,directory,the directory,nothing,empty name,"
            "zero,other process,unreadable,replaced directory"
        )
        .replace("absolute upwards ", "absolute,upwards,")
        .split(",")
    ):
        failed = await world.fails("forge_file", json.dumps([what, str(world.key)]))
        assert failed.reason in (Reason.TASK_RESULT_INVALID, Reason.HANDLER_FAILED), (what, failed)
        assert SECRET not in failed.message


async def test_the_nodes_key_is_out_of_reach(confined: World) -> None:
    asked = json.dumps([str(confined.key), os.getpid()])
    for _ in range(3):  # What one process did, the next one does not profit from.
        got = json.loads(await confined.data("look_for_the_key", asked))
        assert got.pop("own").count('"') == 2
        assert got.pop("list") == "['state']"
        assert got.pop("other attempts") == "[]"
        refused = {"FileNotFoundError", "PermissionError", "OSError", "ZeroDivisionError"}
        refused |= {"CalledProcessError", "IndexError", "FileExistsError"}
        assert {name: said for name, said in got.items() if said not in refused} == {}
    assert not Path(f"/tmp/planted-{MARK}").exists()


async def test_what_the_nodes_environment_has_stays_there(world: World) -> None:
    """Delegations and proxies with passwords are given in variables."""
    names = set(json.loads(await world.data("names_in_environment")))
    told = {MARKER_VARIABLE, MEMORY_VARIABLE, "HOME", "TMPDIR"}
    assert told <= names <= told | set(PASSED_VARIABLES) | {"LC_CTYPE"}  # Python sets the last.


async def test_attempts_do_not_see_one_another(confined: World) -> None:
    asked = json.dumps([str(confined.key), os.getpid()])
    both = await asyncio.gather(*(confined.data("look_for_the_key", asked) for _ in range(2)))
    for got in map(json.loads, both):
        assert got["other attempts"] == "[]"
        assert len(json.loads(got["own"])) == 1


async def test_no_signal_reaches_the_node(confined: World) -> None:
    failed = await confined.fails("signal_everybody", str(os.getpid()))
    assert failed.reason is Reason.HANDLER_FAILED
    assert "NOT_CONFINED" not in failed.message


@pytest.mark.parametrize("how", ["", "die", "stay", "unset"])
async def test_daemons_end_with_their_attempt(world: World, how: str) -> None:
    await world.run("daemons", how, seconds=3)
    assert daemons() == []


async def test_who_kills_its_keeper_ends_with_it(world: World) -> None:
    failed = await world.fails("kill_keeper", seconds=3)
    assert failed.reason in (Reason.HANDLER_FAILED, Reason.ATTEMPT_TIMED_OUT)
    assert daemons() == []


async def test_daemons_of_a_cancelled_attempt_are_gone_when_it_is(world: World) -> None:
    running = asyncio.create_task(world.run("daemons", "stay"))
    while not daemons():
        await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert daemons() == []


NODE = """
import asyncio, pathlib, sys
from tests.support.hostile_pool import World

async def main():
    world = World(pathlib.Path(sys.argv[1]))
    await world.pool.start()
    await asyncio.gather(*(world.run("daemons", "stay") for _ in range(2)))

asyncio.run(main())
"""


async def test_nothing_outlives_a_node_that_is_killed(world: World, tmp_path: Path) -> None:
    node = await asyncio.create_subprocess_exec(sys.executable, "-c", NODE, str(tmp_path))

    def left() -> list[int]:
        return [*daemons(), *with_word(str(tmp_path / "parent"))]

    while len(left()) < 25:  # Of two attempts, and their own processes.
        assert node.returncode is None
        await asyncio.sleep(0.05)
    node.kill()
    await node.wait()
    ends = time.monotonic() + 10
    while left():
        assert time.monotonic() < ends, left()
        await asyncio.sleep(0.05)


async def test_who_answers_later_answers_nobody(world: World) -> None:
    for _ in range(5):
        done = await world.run("answer_later")
        assert isinstance(done, AttemptFailed) or done.data == b"honest"
        await world.is_well()


@pytest.mark.parametrize("kind", ["bytes", "mapped", "arrow", "children"])
async def test_memory_is_bounded_whoever_takes_it(world: World, kind: str) -> None:
    failed = await world.fails("grow", kind, seconds=30)
    assert failed.reason is Reason.TASK_MEMORY_EXCEEDED, failed
    assert "tasks.memory_max" in failed.message
    assert not failed.retryable


async def test_memory_beyond_reason_is_refused_at_once(world: World) -> None:
    failed = await world.fails("grow_at_once")
    assert failed.reason is Reason.TASK_MEMORY_EXCEEDED


async def test_processes_are_bounded(world: World) -> None:
    failed = await world.fails("many_processes", seconds=30)
    assert failed.reason is Reason.TASK_MEMORY_EXCEEDED
    assert "processes at once" in failed.message


async def test_nothing_that_one_attempt_changes_reaches_the_next(world: World) -> None:
    before = await asyncio.gather(*(world.data("state_of_process") for _ in range(2)))
    for task_type in ("change_process", "litter"):
        await asyncio.gather(*(world.data(task_type) for _ in range(2)))
        after = await asyncio.gather(*(world.data("state_of_process") for _ in range(2)))
        assert after == before
    for place in (Path("/tmp"), Path("/dev/shm")):
        left = [place / f"shut-{MARK}", place / f"litter-{MARK}"]
        if world.pool.missing:
            left[0].chmod(0o700)
            shutil.rmtree(left[0])
            left[1].unlink()
        assert not any(each.exists() for each in left)


async def test_a_process_that_is_kept_is_kept_only_clean(world: World) -> None:
    first = await world.data("reused")
    assert await world.data("reused") == first
    for what in ("chdir", "thread", "child"):
        await world.data("reused", what)
        assert daemons() == []
    done = await world.run("reused", "twice")
    if isinstance(done, AttemptFailed):
        assert "continued after its answer" in done.message
    await asyncio.sleep(0.2)
    assert await world.data("reused") not in (first, b"forged")
    assert await world.data("reused") != await world.data("honest")


async def test_a_runner_that_hides_its_children_is_not_kept(world: World) -> None:
    await world.data("reused", "child, and says clean")
    assert daemons() == []
    assert world.pool._idle[-1].kept_type == ""  # Its process, with a runner that is new.
    await world.data("reused")
    assert world.pool._idle[-1].kept_type == "reused"


@pytest.mark.parametrize("what", ["child later", "memory later"])
async def test_a_kept_runner_that_goes_on_between_attempts_is_killed(
    world: World, what: str
) -> None:
    await world.data("reused", what)
    [kept] = [process for process in world.pool._idle if process.kept_type]
    async with asyncio.timeout(10):
        while kept._process.returncode is None:
            await asyncio.sleep(0.02)
    assert kept not in world.pool._idle
    assert daemons() == []


@pytest.mark.parametrize("what", ["leave", "leave beside", "mode", "replace"])
async def test_a_kept_process_has_a_scratch_directory_as_new(world: World, what: str) -> None:
    first = await world.data("reused")
    assert await world.data("reused", what) == first
    assert await world.data("reused", "look") == b"['scratch'] [] 40700"
    assert await world.data("reused") == first


async def test_a_kept_runner_that_went_on_later_is_given_to_nobody(world: World) -> None:
    await world.data("reused")
    [kept] = [process for process in world.pool._idle if process.kept_type]
    kept.runner._data += b"forged"  # Came when nobody looked any longer.
    await world.data("reused")


async def test_a_runner_is_kept_for_a_bounded_number_of_attempts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "ATTEMPTS_PER_RUNNER_MAX", 3)
    served = []
    for _ in range(6):
        await world.data("reused")
        served.append(max(process.served for process in world.pool._idle))
    assert served == [1, 2, 0, 1, 2, 0]


async def test_no_runner_is_kept_because_its_handler_says_so(world: World) -> None:
    assert await world.data("claim_to_be_clean") == b"its own"
    assert [process.kept_type for process in world.pool._idle] == ["", ""]


async def test_the_node_bounds_what_comes_beside_a_file(world: World) -> None:
    failed = await world.fails("large_beside_a_file")
    assert "too many bytes in addition to a file" in failed.message


async def test_output_is_bounded_and_its_end_is_kept(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    began = time.monotonic()
    failed = await world.fails("print_without_end")
    assert time.monotonic() - began < 15
    assert failed.message == "RuntimeError: with a traceback"
    assert 32 * 1024 < len(failed.output_tail.encode()) <= OUTPUT_TAIL_BYTES_MAX
    assert "the end" in failed.output_tail
    assert 'raise RuntimeError("with a traceback")' in failed.output_tail
    lines = [each for each in caplog.records if each.message.startswith("handler output")]
    assert 0 < len(lines) < 30
    assert all(
        (vars(each)["task_id"], vars(each)["attempt"]) == (f"t{world.count}", 1) for each in lines
    )


ODDITIES = [
    ("exit", Reason.HANDLER_FAILED, "SystemExit: 0"),
    ("interrupt", Reason.HANDLER_FAILED, "KeyboardInterrupt"),
    ("generator", Reason.HANDLER_FAILED, "GeneratorExit"),
    ("unspeakable", Reason.HANDLER_FAILED, "Unspeakable: its text can't be made"),
    ("reason", Reason.HANDLER_FAILED, "QUOTA: no more of these today"),
    ("reason list", Reason.HANDLER_FAILED, "['x']: words"),
    ("ours", Reason.HANDLER_FAILED, "WORKER_LOST: words"),
    ("retryable", Reason.SQL_FAILED, "words"),
    ("message", Reason.SQL_FAILED, "object object"),
    ("infinity", Reason.TASK_RESULT_INVALID, "result['mean'][1]['x'] is inf"),
    ("nan", Reason.TASK_RESULT_INVALID, "result[0] is nan"),
    ("loop", Reason.TASK_RESULT_INVALID, "is not JSON"),
    ("object", Reason.TASK_RESULT_INVALID, "result['a'] is of type object"),
    ("keys", Reason.TASK_RESULT_INVALID, "is not JSON"),
    ("text", Reason.TASK_RESULT_INVALID, "not Unicode"),
    ("data", Reason.TASK_RESULT_INVALID, "is bytes, not str"),
    ("type", Reason.TASK_RESULT_INVALID, "128 characters"),
    ("type half", Reason.TASK_RESULT_INVALID, "not Unicode"),
    ("type none", Reason.TASK_RESULT_INVALID, "128 characters"),
    ("file", Reason.TASK_RESULT_INVALID, "inside task.scratch"),
    ("file name", Reason.TASK_RESULT_INVALID, "not Unicode"),
    ("large", Reason.TASK_RESULT_INVALID, "with a file, a result has at most 65536 bytes"),
    ("huge", Reason.TASK_RESULT_INVALID, "over 64 MiB"),
]
"""What a handler raises or returns, and what its submitter gets."""


async def test_what_is_no_result_is_the_attempts_failure(world: World) -> None:
    for what, reason, words in ODDITIES:
        failed = await world.fails("raise_oddly", what)
        assert (failed.reason, words in failed.message) == (reason, True), (what, failed)


async def test_who_stops_itself_runs_out_of_time(world: World) -> None:
    assert (await world.fails("stop_itself", seconds=0.5)).reason is Reason.ATTEMPT_TIMED_OUT


@pytest.mark.parametrize("who", ["user", "without", "user without"])
@pytest.mark.skipif(INSIDE in os.environ, reason="this is inside")
async def test_the_same_as_a_plain_user_and_without_namespaces(
    who: str, request: pytest.FixtureRequest
) -> None:
    place = Path(tempfile.mkdtemp(prefix="hostile-"))  # Other runs may shut that of pytest.
    request.addfinalizer(lambda: shutil.rmtree(place, ignore_errors=True))
    place.chmod(0o777)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-x",
        "--timeout=170",
    ]
    command += [f"--basetemp={place / 'inside'}", __file__]
    if "without" in who:
        # Real: in this namespace the kernel makes no further ones.
        none = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
        command = ["unshare", "--user", "--map-root-user", "sh", "-c", none, "sh", *command]
    if "user" in who:
        if os.getuid() != 0:
            pytest.skip("this is a plain user already")
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        base = Path(sys.base_prefix).resolve()
        shut = [each for each in reversed(base.parents) if not each.stat().st_mode & 1]
        if shut:  # A view of the files in which a plain user reaches the interpreter.
            view = (
                f"mount --bind {base} /mnt && mount -t tmpfs -o mode=755 none {shut[0]} && "
                f'mkdir -p {base} && mount --move /mnt {base} && exec "$@"'
            )
            command = ["unshare", "--mount", "sh", "-c", view, "sh", *command]
    environment = {
        **os.environ,
        INSIDE: "without" if "without" in who else "user",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(place),
    }
    inside = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await inside.communicate()
    assert inside.returncode == 0, output.decode()[-6000:]
    assert b" passed" in output
