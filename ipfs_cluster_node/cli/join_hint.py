"""Shows a join token, and the command that joins with it."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from ipfs_cluster_node.cli.output import command_line, say
from ipfs_cluster_node.config.settings import ENROLMENT_PORT
from ipfs_cluster_node.core.endpoints import parse_endpoint
from ipfs_cluster_node.core.model import Role

PLACEHOLDER: Final = "HOST:9096"
"""Where a master is reached, which only its own machine knows."""
LOCAL_PLACEHOLDER: Final = "PORT"
BEGINNING: Final = f"ipfs-cluster-node init --bind 0.0.0.0:9096 --advertise {PLACEHOLDER}"


class Invitation:
    """A join token with the masters that let joiners in, and the command for the other machine."""

    def __init__(
        self,
        token: str,
        enrolment_endpoints: Iterable[str],
        *,
        role: str,
        addresses: Sequence[str] = (),
    ) -> None:
        """Name in the token the masters that other machines reach, or all if there are none.

        Args:
            token: The token alone.
            enrolment_endpoints: Of all masters.
            role: The joiner's.
            addresses: The only ones that the joiner may advertise; none: any.
        """
        from ipfs_cluster_node.adapters.keys.tokens import with_addresses

        known = list(enrolment_endpoints)
        reached = [each for each in known if not parse_endpoint(each).is_loopback]
        self.is_local = bool(known) and not reached
        """Whether only this machine can use it."""
        self.token = with_addresses(token, reached or known)
        unknown = () if known else ("--enrolment", f"MASTER:{ENROLMENT_PORT}")
        self._role, self._addresses = role, list(addresses)
        self.command = command_line("join", self.token, *unknown, *self._own_options())

    def document(self) -> dict[str, Any]:
        """What `--json` has besides the API's answer."""
        return {"token": self.token, "command": self.command}

    def show(self, where: str) -> None:
        """Print the token, and on standard error how to use it."""
        say(self.token)
        if self.is_local:
            say(
                "no master accepts joiners from other machines: all listen on this machine only",
                f"a cluster that others can join begins with: {BEGINNING}",
                "HOST is this machine's name or address, at which they reach it; a master that "
                "exists is given it by `bind`, `enrolment_bind` and `advertise` in its config.toml "
                "(a kit's: in the metadata)",
                err=True,
            )
        say(f"on {'this machine' if self.is_local else where}: {self.command}", err=True)
        if PLACEHOLDER in self.command:
            say(
                "HOST is that machine's name or address, at which the other masters reach it; the "
                "command has it if the token is made with --address HOST:PORT",
                err=True,
            )
        elif f":{LOCAL_PLACEHOLDER}" in self.command:
            say("PORT is one that is free, another one for each", err=True)

    def _own_options(self) -> list[str]:
        """Options that the joiner needs besides the token."""
        if self._role == Role.CLIENT:
            return []
        if self.is_local:  # The default ports may be another node's already.
            free = f"127.0.0.1:{LOCAL_PLACEHOLDER}" if self._role == Role.MASTER else "127.0.0.1:0"
            bind = self._addresses[0] if self._addresses else free
            if self._role != Role.MASTER:
                return ["--bind", bind]
            host = bind.rpartition(":")[0]
            return ["--bind", bind, "--enrolment-bind", f"{host}:{LOCAL_PLACEHOLDER}"]
        if not self._addresses and self._role != Role.MASTER:
            return []  # It only connects out.
        advertised = self._addresses[:1] or [PLACEHOLDER]
        port = advertised[0].rpartition(":")[2]
        of_v6 = advertised[0].startswith("[")
        everywhere = "[::]" if of_v6 else "0.0.0.0"  # nosec B104: of the other machine, printed.
        return ["--bind", f"{everywhere}:{port}", "--advertise", *advertised]
