"""`init`, `join`, `serve`: commands that use a node's home directory."""

import asyncio
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Final, TextIO

import click

from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.cli.output import (
    Parsed,
    client_command,
    command_line,
    confirm,
    local_command,
    print_json,
    reporting,
    say,
    with_profile,
)
from ipfs_cluster_node.cli.own_handlers import handlers_option
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import (
    check_profile_name,
    free_profile_name,
    save_profile,
    updating_profiles,
)
from ipfs_cluster_node.config.protection import protect_home
from ipfs_cluster_node.config.settings import (
    BIND_DEFAULT,
    ENROLMENT_PORT,
    NodeSection,
    NodeSettings,
    enrolment_beside,
    load_settings,
)
from ipfs_cluster_node.core.endpoints import parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, parse_node_id
from ipfs_cluster_node.core.model import Role

READY_MARK: Final = "ready"
CLUSTER_KEYS: Final = ("cluster_id", "cluster_name", "node_id")
"""What is said of a node that was made, in JSON."""

home_option = click.option(
    "--home",
    type=click.Path(),
    callback=lambda _context, _parameter, path: Home.find(path),
    help="The node's directory; empty for a new node. [default: ~/.ipfs-cluster-node]",
)


def _master(text: str) -> tuple[NodeId, str]:
    """Parse a master's id and address."""
    node_id, _, address = text.partition("@")
    try:
        return parse_node_id(node_id), str(parse_endpoint(address))
    except (ValueError, ClusterError) as error:
        raise ValueError(f"{error}; write NODE_ID@HOST:PORT") from error


profile_name_option = click.option(
    "--profile-name",
    help="Name of the client profile to write. [default: default; if taken, the cluster's]",
)


def address_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for a node's name and addresses."""
    for option in (
        click.option("--name", help="The node's name. [default: the host name]"),
        click.option(
            "--advertise", multiple=True, help="host:port at which others reach this node."
        ),
        click.option(
            "--enrolment-bind",
            help="host:port on which a master accepts joiners. "
            f"[default: the host of --bind, {ENROLMENT_PORT}]",
        ),
        click.option(
            "--bind", help=f"host:port on which the node listens. [default: {BIND_DEFAULT}]"
        ),
    ):
        function = option(function)
    return function


def node_settings(
    *,
    role: str,
    name: str | None,
    bind: str | None,
    enrolment_bind: str | None,
    advertise: tuple[str, ...],
) -> NodeSection:
    """Build `[node]` from the flags."""
    host = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip("-._")[:64]
    bind = bind or str(BIND_DEFAULT)
    return NodeSection(
        name=name or host or "node",
        role=role,
        bind=bind,
        enrolment_bind=enrolment_bind or enrolment_beside(bind),
        advertise=advertise,
    )


@click.command()
@click.option("--cluster-name", default="cluster", show_default=True, help="The cluster's name.")
@click.option(
    "--recovery-passphrase-file",
    type=click.File("r"),
    help="A file with the recovery passphrase; - is stdin. [default: one is made and printed once]",
)
@home_option
@address_options
@profile_name_option
@local_command
def init(
    *,
    cluster_name: str,
    recovery_passphrase_file: TextIO | None,
    home: Home,
    profile_name: str | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Create a cluster, with this node as its first master.

    Creates the cluster's certificate authority, the node's identity and certificate, and a client
    identity for you, with a profile that the other commands use. Then run `serve`.
    """
    from ipfs_cluster_node.node.health_calls import check_home_free
    from ipfs_cluster_node.node.setup import init_cluster

    asyncio.run(check_home_free(home))
    check_profile_name(profile_name)
    passphrase = ""
    if recovery_passphrase_file is not None:
        passphrase = recovery_passphrase_file.read().strip()
        if not passphrase:
            raise ClusterError(
                Reason.INVALID_ARGUMENT, "the passphrase file is empty; write a passphrase to it"
            )
    made = init_cluster(
        home,
        node_settings(role="master", **where),
        cluster_name=cluster_name,
        recovery_passphrase=passphrase,
    )
    with ExitStack() as locked:
        with suppress(ClusterError):  # Saving reports it as well, once the passphrase is known.
            locked.enter_context(updating_profiles())
        written = profile_name or free_profile_name(made.cluster_name)
        try:
            _report(made, home, written, as_json=as_json)
            sys.stdout.flush()
        except OSError as error:
            if made.recovery_passphrase:
                raise ClusterError(
                    Reason.STORAGE_FULL,
                    f"the node is made, in {home.path}, but the recovery passphrase could not be "
                    f"printed ({error.strerror}); start the node, and make another one: "
                    + command_line("recover", "passphrase", "--home", home.path),
                ) from error
            raise
        finally:
            save_profile(written, made.profile)


@click.command()
@click.argument("token")
@click.option(
    "--enrolment",
    multiple=True,
    help="A master's enrolment port, host:port, instead of those in the token.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Join in place of the node of the same name that is gone, which is removed.",
)
@click.option(
    "--change-role", is_flag=True, help="With --replace, also if that node had another role."
)
@click.option("--yes", is_flag=True, help="Do not ask before --replace removes a node.")
@home_option
@address_options
@profile_name_option
@client_command
def join(
    profile: str | None,
    *,
    token: str,
    enrolment: tuple[str, ...],
    replace: bool,
    change_role: bool,
    yes: bool,
    home: Home,
    profile_name: str | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Enrol this machine with a join token, as `token create` prints it; `-` reads it from input.

    The token says whether it becomes a master, a worker, a leecher or a client. A node then runs
    `serve`; a client has its profile at once. If the token needs approval, this waits for the
    decision, at most until the token expires.

    With --replace it takes the place of the node with its --name that is gone, of the same role; it
    asks before it removes that node. That needs a profile with the right to remove it. A node that
    is in --home is moved into a directory there; nothing is deleted. After an interruption the same
    command continues.
    """
    from ipfs_cluster_node.adapters.keys.tokens import split_token
    from ipfs_cluster_node.client.client import Client
    from ipfs_cluster_node.node.joining import join_at_any
    from ipfs_cluster_node.node.replacing import replace_node

    if change_role and not replace:
        raise click.UsageError("--change-role is for --replace")
    check_profile_name(profile_name)
    text = sys.stdin.readline().strip() if token == "-" else token  # noqa: S105
    token, endpoints = split_token(text)
    if not (enrolment or endpoints):
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"the token names no master; add --enrolment MASTER:{ENROLMENT_PORT}, or give the "
            "whole line that `token create` printed",
        )
    settings = node_settings(role="worker", **where)

    def ask(what: str) -> None:
        confirm(f"Remove {what}, for good, and join in its place?")

    async def replace_gone(role: Role) -> None:
        asked: dict[str, Any] = {} if yes else {"confirm": ask}
        await replace_node(
            lambda: Client.from_profile(profile),
            home,
            settings.name,
            None if change_role else role,
            **asked,
            on_done=lambda what: say(what, err=True),
            now=SYSTEM_CLOCK.wall(),
        )

    made = asyncio.run(
        join_at_any(
            home,
            settings,
            token=token,
            enrolment=enrolment or endpoints,
            on_waiting=_report_waiting,
            on_failed=lambda why: say(why, err=True),
            on_busy=lambda why: say(f"waiting until the token expires: {why}", err=True),
            replace_node=replace_gone if replace else None,
        )
    )
    written = None
    if made.role == "client":
        with updating_profiles():  # So that the name can't be taken meanwhile.
            written = profile_name or free_profile_name(made.cluster_name)
            save_profile(written, made.profile)
    _report(made, home, written, as_json=as_json)


def _report_waiting(node_id: str) -> None:
    say(
        "waiting for approval, on a machine with a profile: ipfs-cluster-node node approve "
        f"{node_id}",
        "you can interrupt this: the same command continues with the same identity",
        err=True,
    )


def _report(made: Any, home: Home, profile_name: str | None, *, as_json: bool) -> None:
    if as_json:
        document = {key: getattr(made, key) for key in CLUSTER_KEYS}
        document["role"] = f"ROLE_{made.role.upper()}"
        document |= {"home": str(home.path), "profile": profile_name}
        if made.recovery_passphrase:
            document["recovery_passphrase"] = made.recovery_passphrase
        print_json(document)
        return
    say(f"{made.role} {made.node_id} of cluster {made.cluster_name} ({made.cluster_id})")
    if made.role != "client":
        say(f"start it with: {command_line('serve', '--home', home.path)}")
    if made.recovery_passphrase:
        say(f"recovery passphrase: {made.recovery_passphrase}")
        say(
            "shown only once; keep it apart from the masters. It opens the cluster's keys if every "
            "master's own key is lost."
        )
    if profile_name is not None:
        say(f"your profile: {profile_name}; try: {with_profile(profile_name)} status")


@click.command()
@home_option
@click.option("--bind", help="Where the node listens, instead of the configured address.")
@click.option(
    "--enrolment-bind", help="Where a master accepts joiners, instead of the configured address."
)
@click.option("--slots", type=int, help="Concurrent attempts, instead of the configured number.")
@click.option(
    "--drain",
    help="How long attempts may continue after the node is told to stop, for example 30s.",
)
@click.option(
    "--require-confinement",
    is_flag=True,
    help="Do not start where task handlers can't be kept from the node's files and processes.",
)
@handlers_option
@click.option(
    "--master",
    "masters",
    multiple=True,
    type=Parsed("node_id@host:port", _master),
    help="A master to contact first, unknown to this worker or leecher, or to a master that lost "
    "its log; it is remembered.",
)
@click.option(
    "--enrolment",
    multiple=True,
    help="The current enrolment address, host:port, to renew an expired certificate; remembered.",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
)
@click.option(
    "--end-with-input",
    is_flag=True,
    help="Stop when standard input ends: with the program that started this, however that ends.",
)
@reporting
def serve(
    *,
    home: Home,
    bind: str | None,
    enrolment_bind: str | None,
    slots: int | None,
    drain: str | None,
    require_confinement: bool,
    handlers: tuple[str, ...],
    masters: tuple[tuple[NodeId, str], ...],
    enrolment: tuple[str, ...],
    log_level: str,
    end_with_input: bool,
) -> None:
    """Run the node of this machine until SIGINT or SIGTERM.

    On a signal it hands its attempts back to the cluster, after --drain, or at once after a second
    signal. A third one stops it without waiting for that.
    Prints one line of JSON with `"event": "ready"` once it listens, and tells systemd, if it runs
    as a service of `Type=notify`; the log goes to standard error.
    A master whose log is damaged reports it in its health, and replaces it from the others.
    After the cluster was restored with new masters, give its other nodes one with --master.
    """
    import uvloop

    from ipfs_cluster_node.cli.logs import set_up_logging
    from ipfs_cluster_node.node.descriptors import raise_descriptor_limit
    from ipfs_cluster_node.node.leaving import check_not_left
    from ipfs_cluster_node.node.memory import keep_memory_flat

    set_up_logging(log_level)
    keep_memory_flat()
    raise_descriptor_limit()
    home.check()
    check_not_left(home)
    flags = {
        "node.bind": bind,
        "node.enrolment_bind": enrolment_bind,
        "tasks.slots": slots,
        "tasks.drain": drain,
        "tasks.require_confinement": require_confinement or None,
        "tasks.handlers": handlers or None,
    }
    settings = load_settings(home.config, flags=flags)
    with home.lock():
        protect_home(home)
        _keep_enrolment(home, enrolment)
        if end_with_input:
            threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
        uvloop.run(_serve(home, settings, masters))
    logging.shutdown()


def _stop_at_end_of_input() -> None:
    with suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _keep_enrolment(home: Home, enrolment: tuple[str, ...]) -> None:
    from ipfs_cluster_node.config.credentials import read_enrolment, write_enrolment

    if enrolment:
        known = (*map(str, map(parse_endpoint, enrolment)), *read_enrolment(home.enrolment))
        write_enrolment(home.enrolment, dict.fromkeys(known))


async def _serve(
    home: Home, settings: NodeSettings, masters: tuple[tuple[NodeId, str], ...]
) -> None:
    from ipfs_cluster_node.cli import service_manager
    from ipfs_cluster_node.node.start import run_node

    def ready(node_id: str, bound: Any) -> None:
        print_json({"event": READY_MARK, "node_id": node_id, "address": str(bound)})
        service_manager.notify(service_manager.READY)

    def stop() -> None:
        service_manager.notify(service_manager.STOPPING)
        running.cancel()

    named: dict[NodeId, tuple[str, ...]] = {}
    for node_id, address in masters:
        named[node_id] = (*named.get(node_id, ()), address)
    running = asyncio.ensure_future(run_node(home, settings, ready, masters=named))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    with suppress(asyncio.CancelledError):
        await running
