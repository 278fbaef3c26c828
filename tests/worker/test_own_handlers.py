"""A node's own handlers: which files are loaded, and what is refused, by whose fault."""

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from ipfs_cluster_node.adapters.worker import sources as sources_module
from ipfs_cluster_node.adapters.worker.pool import (
    Attempt,
    AttemptSucceeded,
    HandlerPool,
)
from ipfs_cluster_node.adapters.worker.sources import FILE_BYTES_MAX, Sources, read_sources
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId

pytestmark = pytest.mark.asyncio

INSTALLED = {"echo", "data_processing"}

Write = Callable[..., Path]


def source(task_type: str, answer: str = "'x'", *, before: str = "") -> str:
    return dedent(
        f"""
        from ipfs_cluster_node.tasks import task_handler
        {before}
        @task_handler({task_type!r})
        def handler_of_{task_type}(task):
            return {answer}
        """
    )


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file below a directory that only its owner may write to."""
    tmp_path.chmod(0o700)

    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
        return path

    return written


@asynccontextmanager
async def started(tmp_path: Path, sources: Sources, **options: Any) -> AsyncIterator[HandlerPool]:
    pool = HandlerPool(
        sources=sources,
        slots=1,
        memory_bytes_max=2**28,
        scratch=tmp_path / "home" / "state" / "scratch",
        **options,
    )
    try:
        await pool.start()
        yield pool
    finally:
        await pool.close()


async def answer(pool: HandlerPool, task_type: str) -> str:
    attempt = Attempt(
        task_id=TaskId("t"),
        attempt=1,
        task_type=task_type,
        payload=b"",
        content_type="",
        timeout=timedelta(seconds=20),
        inputs={},
    )
    async with pool.lease(task_type) as lease:
        done = await lease.run(attempt)
    assert isinstance(done, AttemptSucceeded), done
    return done.data.decode()


async def refusal(tmp_path: Path, *named: Path | str, own: Path | None = None) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        async with started(tmp_path, read_sources([*map(str, named)], own)):
            pass
    assert caught.value.reason is Reason.CONFIG_INVALID
    return caught.value


async def test_files_and_modules_are_loaded_and_may_import_what_lies_beside_them(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write("a/first.py", source("first", "number()", before="from beside import number"))
    write("a/beside.py", "def number(): return str(7)")
    second = write(
        "b/second.py", source("second", "json.dumps(first.__name__)", before="import first, json")
    )
    write("lib/by_name.py", source("third", "'3'"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    sources = read_sources([str(first), str(second), "by_name"])
    async with started(tmp_path, sources) as pool:
        assert pool.task_types == INSTALLED | {"first", "second", "third"}
        assert pool.refused == ()
        assert [await answer(pool, each) for each in ("first", "second", "third")] == [
            "7",
            '"first"',
            "3",
        ]


async def test_a_file_of_the_home_is_loaded_in_namespaces_that_hide_the_home(
    tmp_path: Path, write: Write
) -> None:
    home = tmp_path / "home"
    write("home/identity.key", "PRIVATE")
    write("home/handlers/numbers.txt", "7")
    write("home/handlers/part/__init__.py", "seven = open(__file__[:-16] + 'numbers.txt').read()")
    look = "part.seven + str(sorted(os.listdir(HOME)))"
    write(
        "home/handlers/own.py",
        source("own", look, before=f"import os, part; HOME = {str(home)!r}")
        + source("change", "open(__file__, 'a').write('#')"),
    )
    sources = read_sources([], home / "handlers")
    async with started(tmp_path, sources, hidden=[home]) as pool:
        assert pool.task_types == INSTALLED | {"own", "change"}
        seen = await answer(pool, "own")
        if not pool.missing:
            assert seen == "7['handlers', 'state']"
            with pytest.raises(AssertionError, match="Read-only file system"):
                await answer(pool, "change")


async def test_a_named_file_that_can_not_be_imported_is_told_with_its_traceback(
    tmp_path: Path, write: Write
) -> None:
    broken = write("broken.py", "def f():\n    import nothing_like_it\nf()\n")
    error = await refusal(tmp_path, broken)
    assert "nothing_like_it" in error.message
    assert str(broken) in error.message
    [note] = error.__notes__
    assert f'File "{broken}", line 3, in <module>' in note
    assert "import nothing_like_it" in note
    assert "registry.py" not in note
    for text, words in (("def f(:", "SyntaxError"), ("raise SystemExit(3)", "SystemExit: 3")):
        error = await refusal(tmp_path, write("broken.py", text))
        assert words in error.message
    assert "no_such_module" in (await refusal(tmp_path, "no_such_module")).message


async def test_a_file_of_the_home_that_can_not_be_loaded_leaves_the_others(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = write("home/handlers/a_broken.py", "import nothing_like_it").parent
    write("home/handlers/b_good.py", source("good"))
    write("home/handlers/c-name.py", source("never"))
    open_to_all = write("home/handlers/d_open.py", source("never"))
    open_to_all.chmod(0o666)
    write("home/handlers/e_latin.py", "").write_bytes(b"x = '\xff'")
    write("home/handlers/f_huge.py", "#" * (FILE_BYTES_MAX + 1))
    (own / "g_gone.py").symlink_to("nothing.py")
    write("home/handlers/json.py", source("never"))
    async with started(tmp_path, read_sources([], own)) as pool:
        assert pool.task_types == INSTALLED | {"good"}
        assert await answer(pool, "good") == "x"
        why = {Path(each.what).name: each.why for each in pool.refused}
        [trace] = [each.traceback for each in pool.refused if "a_broken" in each.what]
    assert f'File "{own / "a_broken.py"}", line 1, in <module>' in trace
    assert "nothing_like_it" in why.pop("a_broken.py")
    assert "letters, digits" in why.pop("c-name.py")
    assert f"chmod go-w '{open_to_all}'" in why.pop("d_open.py")
    assert "UTF-8" in why.pop("e_latin.py")
    assert str(FILE_BYTES_MAX) in why.pop("f_huge.py")
    assert "can't be read" in why.pop("g_gone.py")
    assert "rename the file" in why.pop("json.py")
    assert why == {}
    assert caplog.messages.count("handlers are left out") == 7


async def test_a_file_of_the_home_that_loads_for_ever_is_left_out(
    tmp_path: Path, write: Write
) -> None:
    own = write("home/handlers/slow.py", "import time\nwhile True: time.sleep(1)").parent
    write("home/handlers/works.py", source("works"))
    async with started(tmp_path, read_sources([], own)) as pool:
        assert pool.task_types == INSTALLED | {"works"}
        [refused] = pool.refused
    assert "took longer than 10 s" in refused.why


async def test_one_task_type_in_two_files_is_refused_with_both_names(
    tmp_path: Path, write: Write
) -> None:
    one, two = write("one.py", source("same")), write("two.py", source("same"))
    error = await refusal(tmp_path, one, two)
    assert error.message.count("handler_of_same") == 2
    assert str(one) in error.message
    assert str(two) in error.message
    twice = write("twice.py", source("same") + source("same").replace("def ", "def other_"))
    assert "other_handler_of_same" in (await refusal(tmp_path, twice)).message
    # It may be imported where it is used.
    user = write("user.py", "from one import handler_of_same")
    async with started(tmp_path, read_sources([str(one), str(user)])) as pool:
        assert "same" in pool.task_types


async def test_one_task_type_in_two_files_of_the_home_is_in_neither(
    tmp_path: Path, write: Write
) -> None:
    for name in ("a", "b", "c"):
        write(f"home/handlers/{name}.py", source("same") + source(name))
    own = tmp_path / "home" / "handlers"
    async with started(tmp_path, read_sources([], own)) as pool:
        assert pool.task_types == INSTALLED | {"a", "b", "c"}
        assert [each.what for each in pool.refused] == ["same", "same"]
        assert str(own / "a.py") in pool.refused[0].why
        assert str(own / "b.py") in pool.refused[0].why
        assert str(own / "c.py") in pool.refused[1].why
    named = write("named.py", source("same", "'named'"))
    async with started(tmp_path, read_sources([str(named)], own)) as pool:
        assert await answer(pool, "same") == "named"
        assert len(pool.refused) == 3


async def test_two_files_of_one_name_are_refused(tmp_path: Path, write: Write) -> None:
    one, two = write("a/one.py", source("a")), write("b/one.py", source("b"))
    error = await refusal(tmp_path, one, two)
    assert str(one) in error.message
    assert str(two) in error.message


async def test_files_replace_installed_handlers_and_are_not_kept(
    tmp_path: Path, write: Write
) -> None:
    echo = write("own_echo.py", source("echo", "str(os.getpid())", before="import os"))
    async with started(tmp_path, read_sources([str(echo)])) as pool:
        assert await answer(pool, "echo") != await answer(pool, "echo")


async def test_code_that_others_may_change_is_refused(tmp_path: Path, write: Write) -> None:
    path = write("dir/mine.py", source("mine"))
    path.chmod(0o664)
    path.parent.chmod(0o775)
    message = (await refusal(tmp_path, path)).message
    assert message.endswith(f"chmod go-w '{path.parent}' '{path}'")
    path.chmod(0o644)
    path.parent.chmod(0o1777)
    assert "directory of your own" in (await refusal(tmp_path, path)).message
    path.parent.chmod(0o700)
    target = write("open/target.py", source("mine"))
    path.unlink()
    path.symlink_to(target)
    target.parent.chmod(0o777)
    assert str(target.parent) in (await refusal(tmp_path, path)).message
    target.parent.chmod(0o700)
    async with started(tmp_path, read_sources([str(path)])) as pool:
        assert "mine" in pool.task_types
    own = write("home/handlers/x.py", "").parent
    own.chmod(0o770)
    assert str(own) in (await refusal(tmp_path, own=own)).message


@pytest.mark.parametrize("opened", ["part", "part/deep", "part/deep/seven.py", "beside.py"])
@pytest.mark.parametrize("linked", [False, True])
async def test_modules_beside_handlers_that_others_may_change_are_not_imported(
    tmp_path: Path, write: Write, opened: str, *, linked: bool
) -> None:
    lies = "elsewhere" if linked else "home/handlers"
    write(f"{lies}/part/deep/seven.py", "seven = '7'")
    write(f"{lies}/beside.py", "from part.deep.seven import seven")
    own = write("home/handlers/user.py", source("user", "seven", before="from beside import *"))
    write("home/handlers/apart.py", source("apart"))
    for name in ["part", "beside.py"] if linked else []:
        (own.parent / name).symlink_to(tmp_path / lies / name)
    changed = tmp_path / lies / opened
    changed.chmod(changed.stat().st_mode | 0o020)
    async with started(tmp_path, read_sources([], own.parent)) as pool:
        assert pool.task_types == INSTALLED | {"apart"}
        why = {each.what: each.why for each in pool.refused}
    assert f"chmod go-w '{changed}'" in why[str(own)]
    assert f"chmod go-w '{changed}'" in (await refusal(tmp_path, own)).message
    changed.chmod(changed.stat().st_mode & ~0o020)
    async with started(tmp_path, read_sources([], own.parent)) as pool:
        assert pool.task_types == INSTALLED | {"apart", "user"}
        assert await answer(pool, "user") == "7"


async def test_bytecode_beside_handlers_that_others_may_change_is_refused(
    tmp_path: Path, write: Write
) -> None:
    path = write("dir/mine.py", source("mine"))
    compiled = write("dir/__pycache__/beside.cpython-311.pyc", "")
    compiled.chmod(0o666)
    assert f"chmod go-w '{compiled}'" in (await refusal(tmp_path, path)).message


async def test_more_files_beside_handlers_than_are_checked_are_not_imported(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "CHECKED_MAX", 3)
    for name in ("a", "b", "c"):
        write(f"dir/{name}.py", "")
    good = write("dir/m.py", source("m"))
    async with started(tmp_path, read_sources([str(good)])) as pool:
        assert "m" in pool.task_types
    write("dir/z.py", "")
    bad = write("dir/n.py", source("n", before="import z"))
    assert "a directory of their own" in (await refusal(tmp_path, bad)).message


async def test_an_unsafe_module_beside_handlers_takes_no_name_of_an_installed_one(
    tmp_path: Path, write: Write
) -> None:
    path = write("dir/mine.py", source("mine", before="import duckdb, shlex"))
    for name in ("shlex.py", "duckdb.py"):
        write(f"dir/{name}", "raise AssertionError").chmod(0o666)
    async with started(tmp_path, read_sources([str(path)])) as pool:
        assert "mine" in pool.task_types


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file to another user")
async def test_a_file_of_another_user_is_refused(tmp_path: Path, write: Write) -> None:
    path = write("mine.py", source("mine"))
    os.chown(path, 12345, -1)
    assert "12345" in (await refusal(tmp_path, path)).message


async def test_the_homes_directory_is_a_directory_and_no_link(tmp_path: Path, write: Write) -> None:
    write("elsewhere/x.py", "")
    (tmp_path / "link").symlink_to("elsewhere")
    assert "not a directory" in (await refusal(tmp_path, own=tmp_path / "link")).message
    assert "not a directory" in (await refusal(tmp_path, own=write("file", ""))).message
    assert read_sources([], tmp_path / "missing") == Sources()


async def test_files_in_what_is_hidden_are_refused(tmp_path: Path, write: Write) -> None:
    path = write("home/elsewhere/x.py", source("x"))
    own = write("home/handlers/secret/key", "").parent.parent
    with pytest.raises(ClusterError, match="hidden from handlers; move it"):
        async with started(tmp_path, read_sources([str(path)]), hidden=[tmp_path / "home"]):
            pass
    with pytest.raises(ClusterError, match="which they see; move it"):
        async with started(
            tmp_path, read_sources([], own), hidden=[tmp_path / "home", own / "secret"]
        ):
            pass


async def test_an_edit_after_the_start_changes_no_process(tmp_path: Path, write: Write) -> None:
    path = write("edited.py", source("edited", "'before'"))
    async with started(tmp_path, read_sources([str(path)])) as pool:
        write("edited.py", "raise RuntimeError")
        [process] = pool._idle
        await process.kill()
        assert await answer(pool, "edited") == "before"


async def test_the_node_itself_runs_no_code_of_handlers(tmp_path: Path, write: Write) -> None:
    path = write("seen.py", source("seen", "str(PID)", before="import os; PID = os.getppid()"))
    async with started(tmp_path, read_sources([str(path)])) as pool:
        assert json.loads(await answer(pool, "seen")) != os.getppid()
        assert "seen" not in __import__("sys").modules


async def test_handlers_that_can_not_be_loaded_any_longer_fail_the_attempt(
    tmp_path: Path, write: Write
) -> None:
    write("lib/needed.py", "")
    path = write("lib/needs.py", source("needs", before="import needed"))
    async with started(tmp_path, read_sources([str(path)])) as pool:
        (tmp_path / "lib" / "needed.py").unlink()
        [process] = pool._idle
        await process.kill()
        with pytest.raises(ClusterError, match="no handler process could be started") as caught:
            await answer(pool, "needs")
    assert caught.value.reason is Reason.HANDLER_FAILED
