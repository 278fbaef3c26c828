"""A client has a method for every RPC that clients may call, by the same name."""

import re

from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from ipfs_cluster_node.client.client import Client

BY_OTHER_MEANS = {
    "Watch": "`watch_state`; a bare `watch` would not say of what",
    "RenewCertificate": "the client renews its certificate when it is used",
    "GetBlocks": "files are read whole, with `get_content`",
}


def test_the_client_has_a_method_for_each_rpc() -> None:
    called = {
        method.rsplit("/", 1)[-1]
        for method, rule in RULES_BY_METHOD.items()
        if CallerClass.CLIENT in rule.callers and method.startswith("/ipfs_cluster_node.")
    }
    snake = {name: re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in called}
    assert {name for name in called if not hasattr(Client, snake[name])} == BY_OTHER_MEANS.keys()
