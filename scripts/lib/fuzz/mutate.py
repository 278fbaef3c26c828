"""Mutation testing of the validator: which changes of one token of code would no test notice?

Run in a scratch copy or in place: nothing is written, each mutant lives in a forked process.
`.venv/bin/python -m scripts.lib.fuzz.mutate [--sample N] [--seed N] [--seconds N] [--file NAME]
[--part K/N]` prints the mutants that survived.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import hypothesis
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

PACKAGE: Final = Path("ipfs_cluster_node")
FILES: Final = (
    *sorted((PACKAGE / "core" / "ucan").glob("*.py")),
    PACKAGE / "core" / "dag_cbor.py",
    *sorted((PACKAGE / "codec").glob("ucan*.py")),
)
TESTS: Final = (
    "tests/core/test_dag_cbor.py",
    "tests/core/test_ucan_selectors.py",
    "tests/core/test_ucan_replay.py",
    "tests/core/test_ucan_chain.py",
    "tests/core/test_ucan_policies.py",
    "tests/codec",
)
TEST_SECONDS_MAX: Final = 20
"""A mutant that goes on for ever is found."""
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
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return f"not dropped in {ast.unparse(node)}"
    if isinstance(node, ast.If):
        return f"if never: {ast.unparse(node.test)}"
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
        return f"constant {node.value!r} changed"
    return None


def apply(node: Any) -> None:
    """Make one change in place."""
    if isinstance(node, ast.Compare):
        node.ops[0] = SWAPPED[type(node.ops[0])]()
    elif isinstance(node, ast.BoolOp | ast.BinOp):
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


def survives(path: Path, tree: ast.Module | None) -> bool:
    """Whether all tests pass with the changed module, or with none."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.environ.get("MUTATE_LOG", os.devnull), os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        if tree is not None:
            name = ".".join(path.with_suffix("").parts)
            sys.meta_path.insert(0, Finder(name, path, tree))
        status = 1
        try:
            status = pytest.main([*OPTIONS, *TESTS])
        finally:
            sys.stdout.flush()
            os._exit(int(status))
    _, ended = os.waitpid(child, 0)
    return ended == 0


def main() -> int:
    """Try mutants; returns 1 where one survives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, help="so many of them; all without")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=36_000, help="stop after this long")
    parser.add_argument("--file", action="append", help="only the files of this name")
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
    assert ed25519  # Imported once, for all the processes.
    began = time.monotonic()
    if not survives(FILES[0], None):
        print("the tests fail without any change")
        return 2
    print(f"unchanged: {time.monotonic() - began:.1f} s", flush=True)
    every = [
        (path, *mutant)
        for path in FILES
        if not given.file or path.name in given.file
        for mutant in mutants(ast.parse(path.read_text(encoding="utf-8")))
    ]
    chosen = list(every)
    random.Random(given.seed).shuffle(chosen)  # noqa: S311 - a sample, no secret.
    tried = survived = 0
    for path, line, what, tree in chosen[: given.sample][part - 1 :: parts]:
        if time.monotonic() - began > given.seconds:
            break
        tried += 1
        if survives(path, tree):
            survived += 1
            print(f"survived: {path}:{line}: {what}", flush=True)
    print(f"{tried} of {len(every)} mutants tried, {tried - survived} killed, {survived} survived")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
