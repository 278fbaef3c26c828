"""What is no handler of a kit, and why a node did not load one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.kit import KitError
from ipfs_cluster_node.kit.handlers import handler_file, why_refused
from ipfs_cluster_node.kit.results import ErrorType
from tests.kit import echoing

KIT = Path("/n/handlers/kit_t.py")


@pytest.mark.parametrize("task_type", ["bad name!", "", "-a", "x" * 65, 5])
def test_a_type_that_is_none_says_what_one_is(task_type: Any) -> None:
    with pytest.raises(KitError, match=r"give 1 to 64 characters of A-Z a-z 0-9 \. _ -") as caught:
        handler_file(task_type, echoing.doubled)
    assert caught.value.error_type is ErrorType.VALIDATION


@pytest.mark.parametrize(
    "function", [echoing.of_two, echoing.of_none, echoing.by_keyword, echoing.later, echoing.each]
)
def test_a_function_that_can_t_take_the_payload_is_no_handler(function: Callable[..., Any]) -> None:
    with pytest.raises(KitError, match="takes the payload alone") as caught:
        handler_file("t", function)
    assert function.__name__ in caught.value.message
    assert caught.value.error_type is ErrorType.VALIDATION


def test_a_function_may_have_more_arguments_with_defaults() -> None:
    assert handler_file("t", echoing.doubled_or)[0] == "kit_t.py"


def test_a_file_that_was_not_loaded_is_mended_in_the_user_s_module() -> None:
    told = why_refused(
        KIT,
        f"not loaded: /n/handlers/a.py (SyntaxError: (x)); {KIT} (ModuleNotFoundError: No module "
        "named 'myh' (really)); mine (a and b both handle 'mine'): correct that, and start the "
        "node again; its log has the tracebacks",
    )
    assert ": ModuleNotFoundError: No module named 'myh' (really); correct your module" in told
    assert "register it again" in told
    assert "start the node" not in told
    assert str(KIT) not in told


def test_a_type_of_another_file_names_that() -> None:
    both = f"t (/n/handlers/a.py (f) and {KIT} (_handle) both handle 't'; keep one of them)"
    told = why_refused(KIT, f"not loaded: {both}: correct that, and start the node again; its log")
    assert told.startswith("another file handles the type too: t (/n/handlers/a.py (f) and")
    assert "start the node" not in told
