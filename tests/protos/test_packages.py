"""A method's callers determine its package, so that an SDK exports what its users call."""

from typing import Final

import pytest
from google.protobuf.descriptor import FileDescriptor

from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.rules import RULES_BY_METHOD, methods
from ipfs_cluster_node.node.node import DESCRIBED, SERVED

CLIENTS: Final = "ipfs_cluster_node.v1"
WORKERS: Final = "ipfs_cluster_node.worker.v1"
INTERNAL: Final = "ipfs_cluster_node.internal.v1"
NEEDS: Final = {
    CLIENTS: {CLIENTS},
    WORKERS: {CLIENTS, WORKERS},
    INTERNAL: {CLIENTS, INTERNAL},
}
"""The packages that the files of each may import."""

EVERY = {f"/{m.containing_service.full_name}/{m.name}": m for m in methods()}


def package_for(callers: frozenset[CallerClass]) -> str:
    if callers & {CallerClass.CLIENT, CallerClass.JOINER}:
        return CLIENTS
    return WORKERS if CallerClass.NODE in callers else INTERNAL


@pytest.mark.parametrize("method", EVERY)
def test_a_method_is_in_the_package_of_its_callers(method: str) -> None:
    assert EVERY[method].containing_service.file.package == package_for(
        RULES_BY_METHOD[method].callers
    )


def files() -> dict[str, FileDescriptor]:
    """Our files that methods need, by name."""
    found: dict[str, FileDescriptor] = {}
    todo = [method.containing_service.file for method in EVERY.values()]
    while todo:
        file = todo.pop()
        if file.package.startswith("ipfs_cluster_node") and file.name not in found:
            found[file.name] = file
            todo += file.dependencies
    return found


def test_a_package_needs_no_other_than_those_of_its_users() -> None:
    assert {file.package for file in files().values()} == set(NEEDS)
    for file in files().values():
        needed = {each.package for each in file.dependencies}
        ours = {package for package in needed if package.startswith("ipfs_cluster_node")}
        assert ours <= NEEDS[file.package], file.name


def test_the_name_of_a_service_is_its_own() -> None:
    """Requirements, shares and the docs name a method without its package."""
    services = {m.containing_service for m in EVERY.values()}
    assert len({each.name for each in services}) == len(services)


def test_reflection_lists_what_clients_and_workers_call() -> None:
    assert {name for name in SERVED if name not in DESCRIBED} == {
        f"{INTERNAL}.{name}" for name in ("BlockService", "MasterService", "RaftService")
    }
    assert f"{WORKERS}.WorkerService" in DESCRIBED
    assert f"{CLIENTS}.TaskDispatchService" in DESCRIBED
