"""The node of a kit: its home, how it joins, and its process, which ends with the kit."""

import asyncio
import atexit
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Any, Final

from ipfs_cluster_node.adapters.net.ports import LOOPBACK, free_port, is_free
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.client.sync import SyncClient
from ipfs_cluster_node.config.files import make_private_directory, write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import (
    JOIN_TOKEN_VARIABLE,
    KIT_DIRECTORY_VARIABLE,
    Profile,
    check_profile_name,
    free_profile_name,
    load_profile,
    profile_names,
    save_profile,
)
from ipfs_cluster_node.config.settings import NodeSection, load_settings
from ipfs_cluster_node.core.endpoints import Endpoint, parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NAME_PATTERN, NodeId
from ipfs_cluster_node.core.model import Liveness, Role
from ipfs_cluster_node.kit.addresses_kept import keep_addresses
from ipfs_cluster_node.kit.handlers import why_refused
from ipfs_cluster_node.kit.leaderless import without_leader
from ipfs_cluster_node.kit.results import CALL_TIMEOUT
from ipfs_cluster_node.kit.wanted import NodeWanted
from ipfs_cluster_node.kit.words import command

DIRECTORY_DEFAULT: Final = "~/.ipfs-cluster-node-kit"
PASSPHRASE_FILE: Final = "recovery-passphrase"  # noqa: S105
READY_SECONDS_MAX: Final = 30.0
"""How long a node may take until it listens, and until it is a live member."""
JOIN_SECONDS_MAX: Final = 30.0
"""How long joining may take: nobody sees what it waits for, such as an operator's approval."""
JOIN_SECONDS_EACH: Final = 15.0
"""For each further master that is tried."""
STOP_SECONDS_MAX: Final = 10.0
HANDLERS_CHECK: Final = "handlers"
"""The check of a node's health that names the files it could not load."""
POLL_SECONDS: Final = 0.1
HIDDEN_PATHS_VARIABLE: Final = "IPFS_CLUSTER_NODE_TASKS_HIDDEN_PATHS"
PORT: Final = 9096
"""Taken by a node that is to listen on loopback, if it is free."""
ENROLMENT_PORT: Final = 9095
_ERROR: Final = re.compile(r"(error: )?(?P<message>.*) \[(?P<reason>[A-Z_]+)\]")
"""The last line of a node that could not start."""


def directory() -> Path:
    """Where the homes of kits' nodes are, by cluster and node name."""
    named = os.environ.get(KIT_DIRECTORY_VARIABLE) or DIRECTORY_DEFAULT
    return Path(named).expanduser().absolute()


class KitNode:
    """One node and its process, which ends with this process however that ends."""

    def __init__(self, wanted: NodeWanted) -> None:
        """Name the home; nothing is made yet.

        Raises:
            ClusterError: INVALID_ARGUMENT for a name that can't be one of a directory.
        """
        for what, name in (("cluster_name", wanted.cluster_name), ("node_name", wanted.node_name)):
            if not NAME_PATTERN.fullmatch(name):
                raise ClusterError(
                    Reason.INVALID_ARGUMENT,
                    f"{what} {name!r:.80} is no name; give 1 to 64 characters of A-Z a-z 0-9 . _ - "
                    "that begin with a letter or digit",
                )
        self._wanted = wanted
        self._cluster = directory() / wanted.cluster_name
        self.home = Home(self._cluster / wanted.node_name)
        self.node_id = ""
        self.address = ""
        """Where it listens."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process, None if it has ended."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def why_ended(self) -> str:
        """What to say of a node that does not run, though nobody ended it."""
        return (
            f"the node's process has ended; {self.home.path / 'log'} says why; close this kit, and "
            "make another one"
        )

    def make(self) -> None:
        """Make the cluster or join it, unless this node was made before; raises ClusterError."""
        if self.home.is_taken:
            role = load_settings(self.home.config, environment={}).node.role
            if role != self._wanted.role:
                raise ClusterError(
                    Reason.HOME_EXISTS,
                    f"{self.home.path} is a {role}, not a {self._wanted.role}; choose another "
                    "node_name, or have it removed and delete the directory",
                )
            keep_addresses(self.home, self._wanted)
            return
        for parent in (directory(), self._cluster):
            make_private_directory(parent)
        wanted = self._wanted
        joins = wanted.join_token or wanted.master_addresses or any(self._others())
        if wanted.role is Role.MASTER and not joins:
            self._init()
        else:
            self._join()

    def _init(self) -> None:
        from ipfs_cluster_node.node.setup import init_cluster

        made = init_cluster(
            self.home,
            self._settings(),
            cluster_name=self._wanted.cluster_name,
            recovery_passphrase=self._wanted.recovery_passphrase,
            passphrase_file=self.home.path / PASSPHRASE_FILE,
        )
        # For the command line; a kit finds its files beside the nodes'.
        name = self._wanted.cluster_name
        try:
            check_profile_name(name)
        except ClusterError:  # Another cluster's, whose files are there.
            name = free_profile_name(name)
        save_profile(name, made.profile)

    def _join(self) -> None:
        from ipfs_cluster_node.adapters.keys.tokens import split_token

        token, endpoints = split_token(self._wanted.join_token or self._minted_token())
        enrolment = self._enrolments(endpoints)
        if not enrolment:
            raise ClusterError(
                Reason.CONFIG_INVALID,
                "no master is known to join; give the whole token that `token create` prints, or "
                "name masters in master_addresses",
            )
        _run(self._joined(token, enrolment))

    async def _joined(self, token: str, enrolment: Sequence[str]) -> None:
        from ipfs_cluster_node.node.joining import join_at_any

        why = ["no master let it in"]

        def on_waiting(node_id: NodeId) -> None:
            why.append(f"an operator has to run `ipfs-cluster-node node approve {node_id}` first")

        seconds = JOIN_SECONDS_MAX + JOIN_SECONDS_EACH * (len(enrolment) - 1)
        try:
            async with asyncio.timeout(seconds):
                await join_at_any(
                    self.home,
                    self._settings(),
                    token=token,
                    enrolment=enrolment,
                    on_waiting=on_waiting,
                    on_busy=why.append,
                )
        except TimeoutError as error:
            raise ClusterError(
                Reason.DEADLINE_EXCEEDED,
                f"{self._wanted.node_name} did not join within {seconds:.0f} s: {why[-1]}; the "
                "same kit, with the same join_token if it had one, goes on",
            ) from error

    def _enrolments(self, told: Sequence[str]) -> Sequence[str]:
        """Where masters let joiners in; `told` are those of the token."""
        if self._wanted.enrolment:
            return [self._wanted.enrolment]
        if told:
            return told
        here = [
            (settings.bind, settings.enrolment_bind)
            for settings in map(_node_of, self._others())
            if settings.role == Role.MASTER
        ]
        named = [each.address for each in self._wanted.master_addresses]
        if not named:
            return [enrolment for _, enrolment in here]
        local = dict(here)
        hosts = ((address, parse_endpoint(address).host) for address in named)
        return [local.get(address, f"{host}:{ENROLMENT_PORT}") for address, host in hosts]

    def _minted_token(self) -> str:
        """A token by the operator's identity, where this user has one of the cluster."""
        try:
            profile = self.profile()
        except ClusterError as error:
            raise ClusterError(
                Reason.CONFIG_INVALID,
                f"joining needs a token: give join_token in the metadata, or "
                f"IPFS_CLUSTER_NODE_JOIN_TOKEN, as `{command(self._wanted.cluster_name)} token "
                f"create --role {self._wanted.role}` prints it where a master's kit made the "
                f"cluster ({error.message})",
            ) from error
        with SyncClient.from_settings(profile) as client:
            self.check_masters(client)  # Before this node is a member.
            return client.create_join_token(str(self._wanted.role)).token

    def profile(self) -> Profile:
        """This user's identity in the cluster.

        The operator's beside a master that was made here, else the profile of the cluster's name,
        that `join` writes for a client.

        Raises:
            ClusterError: CONFIG_INVALID, if there is none.
        """
        from ipfs_cluster_node.node.setup import CLIENT_FILES, profile_of

        homes = [each for each in (self.home, *self._others()) if each.config.exists()]
        files = (home.path / "client" / CLIENT_FILES[1] for home in homes)
        certificate = next((each for each in files if each.exists()), None)
        if certificate is not None:
            masters: dict[NodeId, tuple[str, ...]] = {
                _identity_of(each): (_node_of(each).bind,) for each in _masters(homes)
            }
            ca, _, key = (certificate.parent / name for name in CLIENT_FILES)
            return profile_of(ca, certificate, key, masters)
        if self._wanted.cluster_name in profile_names():
            return load_profile(self._wanted.cluster_name)
        raise ClusterError(
            Reason.CONFIG_INVALID,
            f"this user has no identity in {self._wanted.cluster_name!r}; join it as a client with "
            f"`ipfs-cluster-node join TOKEN --profile-name {self._wanted.cluster_name}`",
        )

    def check_masters(self, client: SyncClient) -> None:
        """Check that the masters named with a PeerID are masters of this cluster.

        Raises:
            ClusterError: CERTIFICATE_INVALID, naming one that is not.
        """
        named = {each.node_id for each in self._wanted.master_addresses if each.node_id}
        masters = {each.node_id for each in client.get_cluster_status(timeout=CALL_TIMEOUT).masters}
        strange = sorted(named - masters)
        if strange:
            raise ClusterError(
                Reason.CERTIFICATE_INVALID,
                f"{strange[0]}, which master_addresses names, is no master of this cluster; the "
                f"masters are {', '.join(sorted(masters))}",
            )

    def start(self) -> None:
        """Run the node; returns once it listens.

        Raises:
            ClusterError: Why it did not start; HOME_IN_USE, if it runs already.
        """
        masters = [
            *((each.node_id, each.address) for each in self._wanted.master_addresses),
            # They may have moved while this node was stopped.
            *((_identity_of(each), _node_of(each).bind) for each in _masters(self._others())),
        ]
        told = [
            f"--master={node_id}@{address}"
            for node_id, address in dict.fromkeys(masters)
            if node_id and self._wanted.role is not Role.MASTER
        ]
        with (self.home.path / "log").open("ab") as log:
            before = log.tell()
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "ipfs_cluster_node"),
                    *("serve", "--home", str(self.home.path), "--end-with-input", *told),
                ],
                stdin=subprocess.PIPE,  # Its other end closes with this process.
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env=_node_environment(),
            )
        atexit.register(self.stop)
        line = _first_line(self._process, READY_SECONDS_MAX)
        if not line:
            self.stop()
            said = (self.home.path / "log").read_bytes()[before:].decode(errors="replace")
            raise self._not_started(said.strip().splitlines())
        ready = json.loads(line)
        self.node_id, self.address = ready["node_id"], ready["address"]

    def _not_started(self, said: Sequence[str]) -> ClusterError:
        found = _ERROR.fullmatch(said[-1]) if said else None
        what = f"the node {self.home.path} did not start"
        if found is None or found["reason"] not in set(Reason):
            return ClusterError(Reason.INTERNAL, f"{what}: {said[-1] if said else 'no word'}")
        return ClusterError(Reason(found["reason"]), f"{what}: {found['message']}")

    def until_member(
        self,
        client: SyncClient,
        task_types: Collection[str] = (),
        *,
        seconds: float = READY_SECONDS_MAX,
    ) -> None:
        """Wait until the cluster counts the node as alive, and knows that it runs these types.

        Meanwhile the other masters may be started: without a leader it waits too.

        Raises:
            ClusterError: DEADLINE_EXCEEDED; NO_LEADER, naming the masters that don't answer.
        """
        until = SYSTEM_CLOCK.monotonic() + seconds
        leaderless: ClusterError | None = None
        while SYSTEM_CLOCK.monotonic() < until:
            try:
                nodes = client.list_nodes(timeout=CALL_TIMEOUT)
                leaderless = None
            except ClusterError as error:
                if error.reason not in (Reason.NO_LEADER, Reason.NOT_LEADER):
                    raise
                nodes, leaderless = [], error
            for node in nodes:
                known = set(task_types) <= set(node.task_types)
                if node.node_id == self.node_id and node.liveness is Liveness.ALIVE and known:
                    return
            sleep(POLL_SECONDS)
        if leaderless is not None:
            here = {
                _identity_of(each): (each.path.name, _node_of(each).bind)
                for each in _masters(self._others())
            }
            here[NodeId(self.node_id)] = self.home.path.name, self.address  # As it may have moved.
            raise without_leader(leaderless, client, self.home, here, seconds)
        what = f"known to run {', '.join(task_types)}" if task_types else "a live member"
        raise ClusterError(
            Reason.DEADLINE_EXCEEDED,
            f"{self.node_id} did not become {what} within {seconds:.0f} s; see "
            f"{self.home.path / 'log'}",
        )

    def put_handler(
        self,
        name: str,
        text: bytes,
        client: SyncClient,
        *,
        task_type: str,
        kept: Collection[str],
    ) -> Path:
        """Put a file among the node's handlers, and start the node again with it.

        After a failure the node runs the types that it had, `kept`, and the cluster knows of them.

        Raises:
            ClusterError: CONFIG_INVALID, if the node can't load it, or another file handles the
                type too; DEADLINE_EXCEEDED.
            OSError: The file can't be written.
        """
        path = self.home.handlers / name
        before = path.read_bytes() if path.exists() else None
        make_private_directory(path.parent)
        try:
            write_private(path, text)
            self._restart()
            self._check_loaded(path, client)
            self.until_member(client, [task_type])
        except BaseException:
            if before is None:
                path.unlink(missing_ok=True)
            else:
                write_private(path, before)
            self._restart()
            with suppress(ClusterError):  # The first error is the one to tell.
                self.until_member(client, kept)
            raise
        return path

    def _restart(self) -> None:
        self.stop()
        self.start()

    def _check_loaded(self, path: Path, client: SyncClient) -> None:
        health = client.get_health(self.address, self.node_id, timeout=CALL_TIMEOUT)
        for check in health.checks:
            if check.name == HANDLERS_CHECK and str(path) in check.detail:
                raise ClusterError(
                    Reason.CONFIG_INVALID,
                    f"{why_refused(path, check.detail)}; the node runs with the handlers that it "
                    f"had, and {self.home.path / 'log'} has the traceback",
                )

    def stop(self) -> None:
        """End the process; safe to repeat."""
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _others(self) -> Iterator[Home]:
        """The homes of the cluster's other nodes that this user made on this machine."""
        if not self._cluster.is_dir():
            return
        for path in sorted(self._cluster.iterdir()):
            home = Home(path)
            if path != self.home.path and home.config.exists():
                yield home

    def _settings(self) -> NodeSection:
        wanted = self._wanted
        taken = [_node_of(home) for home in self._others()]
        ports = {parse_endpoint(a).port for s in taken for a in (s.bind, s.enrolment_bind)}
        bind = wanted.bind or f"{LOOPBACK}:{_port(PORT, ports)}"
        at = parse_endpoint(bind)
        enrolment = wanted.enrolment_bind or str(
            Endpoint(at.host, _port(ENROLMENT_PORT, ports | {at.port}))
        )
        return NodeSection(
            name=wanted.node_name,
            role=wanted.role,
            bind=bind,
            enrolment_bind=enrolment,
            advertise=wanted.advertise,
        )


def _run(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run it to its end; in another thread where this one has a loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(coroutine)
        return
    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, coroutine).result()


def _node_environment() -> dict[str, str]:
    """This process's, without the join token: handlers must see neither that nor other nodes."""
    inherited = {key: value for key, value in os.environ.items() if key != JOIN_TOKEN_VARIABLE}
    hidden = filter(None, (str(directory()), inherited.get(HIDDEN_PATHS_VARIABLE)))
    return {**inherited, HIDDEN_PATHS_VARIABLE: ",".join(hidden)}


def _identity_of(home: Home) -> NodeId:
    from ipfs_cluster_node.adapters.keys.identity import Identity

    return Identity.load(home.identity).node_id


def _masters(homes: Iterable[Home]) -> Iterator[Home]:
    """Those of masters, whose identity can be told."""
    return (h for h in homes if _node_of(h).role == Role.MASTER and h.identity.exists())


def _node_of(home: Home) -> NodeSection:
    return load_settings(home.config, environment={}).node


def _port(first: int, taken: set[int]) -> int:
    """This port if it is free here, else a free one."""
    found = first if first not in taken and is_free(first) else free_port(taken)
    if found is None:
        raise ClusterError(Reason.PORT_IN_USE, "no port is free; name one in the metadata's bind")
    return found


def _first_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """The first line of a process's output; empty if it ends, or takes too long."""
    assert process.stdout is not None
    lines: queue.Queue[bytes] = queue.Queue()
    reading = process.stdout.readline
    threading.Thread(target=lambda: lines.put(reading()), daemon=True).start()
    try:
        return lines.get(timeout=seconds)
    except queue.Empty:
        return b""
