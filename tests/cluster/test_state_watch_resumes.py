"""Where a watch goes on, where it begins again, and what it is refused."""

import asyncio
from contextlib import aclosing
from itertools import pairwise

import pytest

from ipfs_cluster_node.client.watched_state import WatchedState
from ipfs_cluster_node.cluster.state_watches import RIGHTS_SECONDS
from ipfs_cluster_node.codec.resume_tokens import decode_resume_token, encode_resume_token
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.state_events import (
    Bookmark,
    Reset,
    ResetCause,
    StateEvent,
    WatchedTable,
)
from tests.support.virtual_time import virtual_time
from tests.support.watched_masters import (
    CONFIG,
    SOME,
    Master,
    Rights,
    cause_of,
    first_batch,
    in_cluster,
    token_of,
    until_mark,
    with_settings,
)


@virtual_time
async def test_a_resume_says_why_it_begins_again() -> None:
    master = in_cluster()
    token = await token_of(master)
    with_settings(master, "b")
    assert await cause_of(master.watch(CONFIG, token)) is None
    assert await cause_of(master.watch([WatchedTable("tasks")], token)) is ResetCause.OTHER_TABLES
    some = [WatchedTable("config", columns=("key", "value"))]
    assert await cause_of(master.watch(some, token)) is ResetCause.OTHER_TABLES
    some = [WatchedTable("config", key_prefix="user.")]
    assert await cause_of(master.watch(some, token)) is ResetCause.OTHER_TABLES
    assert await cause_of(master.watch(CONFIG, token, SOME)) is ResetCause.RIGHTS_CHANGED
    of_some = await token_of(master, SOME)
    assert await cause_of(master.watch(CONFIG, of_some)) is ResetCause.RIGHTS_CHANGED
    other = in_cluster("other")
    assert await cause_of(other.watch(CONFIG, token)) is ResetCause.OTHER_CLUSTER
    started = Master()
    started.install(master)
    assert await cause_of(started.watch(CONFIG, token)) is ResetCause.COMPACTED
    now = await token_of(master)  # All that changed since is known.
    assert await cause_of(started.watch(CONFIG, now)) is None


@virtual_time
async def test_a_token_of_lost_entries_is_none_of_this_cluster() -> None:
    """The cluster was recovered with a log that has other entries from some index on."""
    master = in_cluster()
    with_settings(master, "b", "c")
    lost = await token_of(master)
    read = decode_resume_token(lost)
    assert read.revision == 4
    in_other_term = encode_resume_token(read._replace(term=2))
    assert await cause_of(master.watch(CONFIG, in_other_term)) is ResetCause.OTHER_CLUSTER
    # The leader has not come so far: nobody has.
    master.leads_for_sure = True
    later = encode_resume_token(read._replace(revision=99))
    assert await cause_of(master.watch(CONFIG, later)) is ResetCause.OTHER_CLUSTER


@virtual_time
async def test_a_token_of_an_entry_whose_term_nobody_knows_begins_again() -> None:
    """An entry that changed nothing, of which the log was compacted since."""
    master = in_cluster()
    master._terms = lambda index: 1 if index <= 3 else 2
    with_settings(master, "b")
    token = await token_of(master)
    read = decode_resume_token(token)
    body = c.ProposeConfig(values={"user.c": "1"})
    master.apply(read.revision + 2, c.LogCommand(at_ms=1, body=body))
    between = encode_resume_token(read._replace(revision=read.revision + 1))
    assert await cause_of(master.watch(CONFIG, between)) is ResetCause.OTHER_CLUSTER
    master.compact()
    assert await cause_of(master.watch(CONFIG, between)) is ResetCause.COMPACTED
    assert await cause_of(master.watch(CONFIG, token)) is None


@virtual_time
async def test_what_a_log_that_was_replaced_still_says_is_no_change() -> None:
    before, now = in_cluster(), in_cluster()
    changes = now.watches.changes
    changes.follow(before.machine, before)  # type: ignore[arg-type]
    changes.follow(now.machine, now)  # type: ignore[arg-type]
    since = now.applied_index
    with_settings(before, "late", "later")
    with_settings(now, "b")
    changed = changes.batch(["config"], since).tables["config"]
    assert changed is not None
    assert [*changed.names] == ["user.b"]


@virtual_time
async def test_a_master_that_is_behind_waits_and_then_names_another() -> None:
    ahead, behind = in_cluster(), in_cluster()
    with_settings(ahead, "b")
    token = await token_of(ahead)
    with pytest.raises(ClusterError) as refused:
        await first_batch(behind.watch(CONFIG, token))
    assert refused.value.reason is Reason.NOT_LEADER
    waiting = asyncio.create_task(first_batch(behind.watch(CONFIG, token)))
    await asyncio.sleep(0.5)
    with_settings(behind, "b")
    [mark] = await waiting
    assert isinstance(mark, Bookmark)
    assert mark.revision == 3


@virtual_time
async def test_a_master_that_hears_of_no_leader_ends_its_watches() -> None:
    master = in_cluster()
    async with aclosing(master.watch(CONFIG)) as events:
        assert [e async for e in until_mark(events)]
        master.age_ms = 11_000
        with pytest.raises(ClusterError) as ended:
            async for _ in events:
                pass
    assert ended.value.reason is Reason.NO_LEADER


@virtual_time
async def test_a_token_of_no_bookmark_is_refused() -> None:
    master = in_cluster()
    token = await token_of(master)
    for at in range(len(token)):
        damaged = bytes([*token[:at], token[at] ^ 1, *token[at + 1 :]])
        for given in (damaged, token[: at + 1] if at + 1 < len(token) else token + b"x"):
            with pytest.raises(ClusterError) as refused:
                await first_batch(master.watch(CONFIG, given))
            assert refused.value.reason is Reason.INVALID_ARGUMENT


@virtual_time
async def test_other_rights_begin_again_with_the_rows_of_these() -> None:
    master = in_cluster()
    rights = Rights()
    state = WatchedState()
    async with aclosing(master.watch(CONFIG, rights=rights)) as events:
        async for event in events:
            if state.apply(event):
                break
        assert state.get("config", "user.a")
        rights.rights, rights.allowed = frozenset({"none"}), lambda _args: False
        causes = []
        async for event in events:
            if isinstance(event, Reset):
                causes.append(event.cause)
            if state.apply(event) and causes:
                break
    assert causes == [ResetCause.RIGHTS_CHANGED]
    assert not list(state.rows("config"))


@virtual_time
async def test_other_rights_are_noticed_in_a_second_though_nothing_changes() -> None:
    master, rights = in_cluster(), Rights()
    async with aclosing(master.watch(CONFIG, rights=rights, interval=60)) as events:
        assert [e async for e in until_mark(events)]
        began = asyncio.get_running_loop().time()
        rights.rights, rights.allowed = frozenset({"none"}), lambda _args: False
        assert isinstance(await anext(events), Reset)
    assert asyncio.get_running_loop().time() - began <= RIGHTS_SECONDS + 0.1


@virtual_time
async def test_one_with_limited_rights_hears_of_no_deletion_of_what_it_was_not_sent() -> None:
    master = in_cluster()
    with_settings(master, "b")
    rights = Rights(frozenset({"none"}), lambda _args: False)
    seen: list[StateEvent] = []
    async with aclosing(master.watch(CONFIG, rights=rights, interval=0.1)) as events:
        async for event in events:
            seen.append(event)
            if len(seen) == 1:
                body = c.ProposeConfig(values={"user.a": "", "user.b": "2"})
                master.apply(master.applied_index + 1, c.LogCommand(at_ms=1, body=body))
            if len(seen) == 4:
                break
    assert all(isinstance(event, Bookmark) for event in seen)


@virtual_time
async def test_a_master_that_reads_its_log_again_does_not_answer_meanwhile() -> None:
    """After its disk was full the state is ahead of what was read again."""
    master = in_cluster()
    with_settings(master, "b", "c")
    master.applied_index = 2
    with pytest.raises(ClusterError) as refused:
        await first_batch(master.watch(CONFIG))
    assert refused.value.reason is Reason.NO_LEADER


@virtual_time
async def test_a_watch_without_changes_has_a_bookmark_each_interval() -> None:
    master = in_cluster()
    marks: list[float] = []
    loop = asyncio.get_running_loop()
    async with aclosing(master.watch(CONFIG, interval=0.5)) as events:
        async for event in events:
            if isinstance(event, Bookmark):
                marks.append(loop.time())
            if len(marks) == 5:
                break
    assert [round(b - a, 1) for a, b in pairwise(marks)] == [0.5] * 4
