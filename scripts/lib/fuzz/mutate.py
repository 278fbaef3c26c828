"""Mutation testing: which changes of one piece of code would no test notice?

Nothing is written: each mutant lives in a forked process, which runs the tests of its set.
`.venv/bin/python -m scripts.lib.fuzz.mutate [--set NAME] [--file NAME] [--sample N] [--seed N]
[--seconds N] [--part K/N]` prints the mutants that survived, and those by which a test hung: look
whether it really hangs, or the machine was busy. `MUTATE_LOG=FILE` keeps what pytest says. Each
set stands in `SETS` with the tests that must notice its mutants.
"""

import argparse
import ast
import copy
import enum
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import hypothesis
import pytest

PACKAGE: Final = Path("ipfs_cluster_node")


@dataclass(frozen=True, slots=True)
class MutantSet:
    """Files that are changed, and the tests that must notice it."""

    files: tuple[Path, ...]
    tests: tuple[str, ...]


def _found(*patterns: str) -> tuple[str, ...]:
    return tuple(str(path) for pattern in patterns for path in sorted(Path().glob(pattern)))


SETS: Final[Mapping[str, MutantSet]] = {
    "ucan": MutantSet(
        (
            *sorted((PACKAGE / "core" / "ucan").glob("*.py")),
            PACKAGE / "core" / "dag_cbor.py",
            *sorted((PACKAGE / "codec").glob("ucan*.py")),
        ),
        _found("tests/core/test_dag_cbor.py", "tests/core/test_ucan_*.py", "tests/codec"),
    ),
    "replica": MutantSet(
        tuple(sorted((PACKAGE / "adapters" / "raft").glob("replica*.py"))),
        _found("tests/raft/test_replica*.py", "tests/raft/test_outages.py"),
    ),
    "consensus": MutantSet(
        (PACKAGE / "cluster" / "consensus.py",), ("tests/cluster/test_consensus.py",)
    ),
    "worker": MutantSet((PACKAGE / "node" / "worker.py",), _found("tests/node/test_worker*.py")),
    "attempts": MutantSet(
        (PACKAGE / "node" / "attempts.py",),
        ("tests/node/test_attempts.py", "tests/node/test_attempt_files.py"),
    ),
    "joining": MutantSet((PACKAGE / "node" / "joining.py",), ("tests/node/test_joining.py",)),
    "sessions": MutantSet(
        (PACKAGE / "cluster" / "dispatch.py", PACKAGE / "cluster" / "worker_sessions.py"),
        _found("tests/cluster/test_worker_sessions.py", "tests/cluster/test_session_*.py"),
    ),
    "tasks": MutantSet(
        tuple(
            PACKAGE / "core" / name
            for name in ("credit.py", "queue.py", "scheduler.py", "tasks.py")
        ),
        _found(*(f"tests/core/test_{name}.py" for name in ("credit", "queue", "tasks", "state*"))),
    ),
    "members": MutantSet(
        (PACKAGE / "cluster" / "members.py",),
        ("tests/cluster/test_members.py", "tests/cluster/test_join_tokens.py"),
    ),
    "pool": MutantSet(
        (PACKAGE / "adapters" / "worker" / "pool.py",),
        ("tests/worker/test_pool_lending.py", "tests/worker/test_pool_watching.py"),
    ),
    "sql_arrow": MutantSet(
        (PACKAGE / "adapters" / "worker" / "builtin" / "sql_arrow.py",),
        (
            "tests/worker/test_sql_arrow.py",
            *(
                f"tests/worker/test_sql.py::test_{name}"
                for name in (
                    "arrow_values_are_exact",
                    "arrow_values_that_would_change_are_refused",
                    "parquet_types_that_the_engine_would_round_are_exact",
                )
            ),
            *(
                f"tests/worker/test_sql_exact.py::test_{name}"
                for name in (
                    "files_one_after_another_are_not_read_in_part",
                    "no_point_in_time_is_read_as_infinity",
                    "times_just_within_the_range_are_read",
                )
            ),
        ),
    ),
}
PRELOADED: Final = (
    *("cryptography.x509", "cryptography.hazmat.primitives.asymmetric.ed25519", "grpc.aio"),
    *("google.protobuf.message", "pyarrow", "pysyncobj"),
)
"""Imported once, for all the processes: none of it is ever mutated."""
TEST_SECONDS_MAX: Final = 20
"""A test that goes on for so long hangs."""
MUTANT_SECONDS_MIN: Final = 60.0
MUTANT_SECONDS_FACTOR: Final = 5.0
"""A process that takes so much longer than without a change hangs."""
HUNG_STATUS: Final = 86
POLL_SECONDS: Final = 0.05
OPTIONS: Final = (
    *("-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"),
    f"--timeout={TEST_SECONDS_MAX}",
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # Imported before the fork.
)
SWAPPED: Final[dict[type, type]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.And: ast.Or, ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add,
}  # fmt: skip


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """Every tree with one change: line, change, tree."""
    # A class that is not frozen, or has no slots, decides the same.
    decorators = {
        id(node)
        for each in ast.walk(tree)
        if isinstance(each, ast.ClassDef)
        for decorator in each.decorator_list
        for node in ast.walk(decorator)
    }
    for position, node in enumerate(ast.walk(tree)):
        what = None if id(node) in decorators else change_of(node)
        if what is not None:
            changed = copy.deepcopy(tree)
            apply(list(ast.walk(changed))[position])
            yield getattr(node, "lineno", 0), what, ast.fix_missing_locations(changed)


def change_of(node: ast.AST) -> str | None:
    """What `apply` does to a node, in words."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        return f"{type(node.ops[0]).__name__} swapped in {ast.unparse(node)}"
    if isinstance(node, ast.BoolOp):
        return f"and/or swapped in {ast.unparse(node)}"
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
        return f"+/- swapped in {ast.unparse(node)}"
    if isinstance(node, ast.AugAssign) and type(node.op) in SWAPPED:
        return f"+/- swapped in {ast.unparse(node)}"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return f"not dropped in {ast.unparse(node)}"
    if isinstance(node, ast.If):
        return f"if never: {ast.unparse(node.test)}"
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
        return f"constant {node.value!r} changed"
    if isinstance(node, ast.Expr) and _is_call(node.value):
        return f"left out: {ast.unparse(node)}"
    return None


def _is_call(node: ast.AST) -> bool:
    """Whether it does something else than to log: what is logged, no test is asked to notice."""
    if isinstance(node, ast.Await):
        return _is_call(node.value)
    return isinstance(node, ast.Call) and not ast.unparse(node.func).startswith("log.")


def apply(node: Any) -> None:
    """Make one change in place."""
    if isinstance(node, ast.Compare):
        node.ops[0] = SWAPPED[type(node.ops[0])]()
    elif isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign):
        node.op = SWAPPED[type(node.op)]()
    elif isinstance(node, ast.UnaryOp):
        node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.If):
        node.test = ast.Constant(value=False)
    elif isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            node.value = not value
        elif isinstance(value, int):
            node.value = value + 1
    elif isinstance(node, ast.Expr):
        node.value = ast.Constant(value=None)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed tree."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(
        self, fullname: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=str(self.path))

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)  # noqa: S102 - our code.


class End(enum.Enum):
    """What the tests said of a mutant."""

    SURVIVED = "survived"
    KILLED = "killed"
    HUNG = "hung"


_ENDS: Final = {0: End.SURVIVED, HUNG_STATUS: End.HUNG}


class Hangs:
    """A pytest plugin that notices tests which took too long."""

    seen = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seen |= report.failed and "Timeout (>" in report.longreprtext


def end_of(
    tests: tuple[str, ...], *, seconds_max: float, changed: tuple[Path, ast.Module] | None
) -> End:
    """Run the tests with the changed module, or with none."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        quiet = os.open(os.environ.get("MUTATE_LOG", os.devnull), os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        if changed is not None:
            path, tree = changed
            name = ".".join(path.with_suffix("").parts)
            assert name not in sys.modules, f"{name} was imported before it was changed"
            sys.meta_path.insert(0, Finder(name, path, tree))
        status = 1
        hangs = Hangs()
        try:
            status = pytest.main([*OPTIONS, *tests], plugins=[hangs])
            status = HUNG_STATUS if hangs.seen else status
        finally:
            sys.stdout.flush()
            os._exit(int(status))
    ends = time.monotonic() + seconds_max
    try:
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return _ENDS.get(os.waitstatus_to_exitcode(status), End.KILLED)
            if time.monotonic() > ends:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return End.HUNG
            time.sleep(POLL_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # What the tests started and left behind.


def main() -> int:
    """Try mutants; returns 1 where one survives, 2 where the tests fail without a change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", action="append", choices=SETS, help="only these; all without")
    parser.add_argument("--file", action="append", help="only the files of this name")
    parser.add_argument("--sample", type=int, help="so many of them; all without")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=36_000, help="stop after this long")
    parser.add_argument("--part", default="1/1", help="the first of four: 1/4")
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    hypothesis.settings.register_profile(
        "mutate",
        max_examples=25,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    )
    hypothesis.settings.load_profile("mutate")
    for name in PRELOADED:
        importlib.import_module(name)
    began = time.monotonic()
    every = [
        (name, path, *mutant)
        for name in given.set or SETS
        for path in SETS[name].files
        if not given.file or path.name in given.file
        for mutant in mutants(ast.parse(path.read_text(encoding="utf-8")))
    ]
    gc.freeze()  # pytest collects garbage as it ends: not these trees, in every process.
    seconds_max: dict[str, float] = {}
    for name in dict.fromkeys(name for name, *_ in every):
        set_began = time.monotonic()
        unchanged = end_of(SETS[name].tests, seconds_max=given.seconds, changed=None)
        if unchanged is not End.SURVIVED:
            print(f"{name}: the tests fail without any change")
            return 2
        took = time.monotonic() - set_began
        seconds_max[name] = max(MUTANT_SECONDS_MIN, MUTANT_SECONDS_FACTOR * took)
        print(f"{name}, unchanged: {took:.1f} s", flush=True)
    chosen = list(every)
    random.Random(given.seed).shuffle(chosen)  # noqa: S311 - a sample, no secret.
    ends: Counter[End] = Counter()
    for name, path, line, what, tree in chosen[: given.sample][part - 1 :: parts]:
        if time.monotonic() - began > given.seconds:
            break
        end = end_of(SETS[name].tests, seconds_max=seconds_max[name], changed=(path, tree))
        ends[end] += 1
        if end is not End.KILLED:
            print(f"{end.value}: {path}:{line}: {what}", flush=True)
    tried = ends.total()
    killed = tried - ends[End.SURVIVED]
    print(
        f"{tried} of {len(every)} mutants tried, {killed} killed "
        f"({100 * killed / max(1, tried):.0f} %), of which {ends[End.HUNG]} hung a test; "
        f"{ends[End.SURVIVED]} survived"
    )
    return int(ends[End.SURVIVED] > 0)


if __name__ == "__main__":
    sys.exit(main())
