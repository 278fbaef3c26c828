"""A peer-to-peer cluster node over mutual-TLS gRPC.

    from ipfs_cluster_node import SyncClient

    with SyncClient.from_profile() as client:
        print(client.submit_task("echo", "hello").result())

`Client` is the same for asyncio. See docs/python.md.
"""

from importlib import import_module

__version__ = "0.1.0"

_MODULES = {
    "Client": "client.client",
    "ClusterError": "core.errors",
    "Reason": "core.errors",
    "SubmittedTask": "client.submitted",
    "SyncClient": "client.sync",
    "TaskFailedError": "client.submitted",
    "task_spec": "client.tasks",
}
"""The module of each public name, imported when the name is first used: most of them load gRPC."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
